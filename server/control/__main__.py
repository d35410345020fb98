"""The control plane's process: `python -m vireo.server.control --port 8104`."""

import sys

from vireo.server.control.control import serve_control
from vireo.server.control.settings import ControlSettings
from vireo.server.rpc.server import run_process
from vireo.server.rpc.settings import load_settings

if __name__ == "__main__":
    run_process(lambda: serve_control(load_settings(ControlSettings, sys.argv[1:])))

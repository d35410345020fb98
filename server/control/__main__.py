"""The control plane's process: `python -m server.control --port 8104`."""

import sys

from server.control.control import serve_control
from server.control.settings import ControlSettings
from server.rpc.server import run_process
from server.rpc.settings import load_settings


async def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    await serve_control(load_settings(ControlSettings, sys.argv[1:]))


if __name__ == "__main__":
    run_process(main)

"""The consumer's process: `python -m vireo.server.consumer --port 8160`."""

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core a process; read at import
if __name__ == "__main__":
    # Slates come first: while a million events are caught up with, and already during the imports,
    # which take seconds.
    os.nice(15)

from vireo.server.consumer.consumer import ConsumerSettings, serve_consumer
from vireo.server.rpc.server import run_process
from vireo.server.rpc.settings import load_settings


async def main() -> None:
    """Consume until stopped."""
    settings = load_settings(ConsumerSettings, sys.argv[1:])
    await serve_consumer(settings)


if __name__ == "__main__":
    run_process(main)

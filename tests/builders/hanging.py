"""Files on a volume that hangs: whoever opens one waits."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MAX_SECONDS = 15.0
"""After which a file is released: code that waits for it would never come to the test's end."""


@contextmanager
def hanging(path: Path) -> Iterator[None]:
    """Have all who open a file within the block wait; fail if that held the block itself up."""
    kept, released = path.read_bytes(), threading.Event()

    def release() -> None:
        released.set()
        pipe = os.open(path, os.O_RDWR)  # which lets them go on
        fresh = path.with_name(f"{path.name}.kept")
        fresh.write_bytes(kept)
        fresh.replace(path)
        os.close(pipe)

    pipe = path.with_name(f"{path.name}.pipe")
    os.mkfifo(pipe)
    pipe.replace(path)
    watch = threading.Timer(_MAX_SECONDS, release)
    watch.start()
    try:
        yield
        assert not released.is_set(), f"{path} held up more than whoever reads it"
    finally:
        watch.cancel()
        watch.join()
        if not released.is_set():
            release()

"""Gives the memory of a release that was dropped back to the machine."""

from __future__ import annotations

import ctypes
import gc


def return_memory() -> None:
    """Collects what has no owner any more, and has malloc return the pages that this frees.

    Releases have no cycles: the last call that uses one frees it, also where `gc.freeze` had
    taken it out of the collector's sight. What is collected here is what came with it.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # glibc; others return memory as they see fit
        trim(ctypes.c_size_t(0))

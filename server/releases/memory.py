"""Returns the memory of a dropped release to the operating system."""

from __future__ import annotations

import ctypes
import gc


def return_memory() -> None:
    """Collect garbage, and have malloc return the freed pages.

    Releases have no cycles: the last call that uses one frees it, even if `gc.freeze` had
    hidden it from the collector. What is collected here are objects created along with it.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # glibc; other allocators decide by themselves
        trim(ctypes.c_size_t(0))

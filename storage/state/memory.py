"""Memory that is free again goes back to the system."""

from __future__ import annotations

import ctypes
import sys


def give_memory_back() -> None:
    """Have the C library return what it keeps of memory that was freed.

    glibc keeps what each thread has freed for later; after a long list was read by several threads this is several
    times what the list itself takes (malloc_trim(3)). Other C libraries give back by themselves, or cannot be asked.
    """
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
    if trim is not None:
        trim(0)

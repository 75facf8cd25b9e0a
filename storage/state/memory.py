"""Memory that is free again: kept for the next large array while a stage computes, given back when it has."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Of mallopt(3), as malloc.h numbers them.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_LARGEST_KEPT = 1 << 30
_NEVER_BY_ITSELF = (1 << 31) - 1
# What glibc begins with, and has once a program has freed arrays of that size.
_FIRST, _LARGEST_LEARNED, _MOST_MAPPED = 128 << 10, 32 << 20, 65536


class _Keepers:
    """How many ask for memory to be kept."""

    lock = threading.Lock()
    count = 0


def keep_freed_memory() -> None:
    """Have the C library take large arrays from memory that was freed, in this process from now on.

    glibc asks the system for each array above 32 MB anew and returns it when it is freed, so that the system fills it
    with zeros page by page, each time: up to half of what a forward pass of 32 pictures takes (docs/results.md).
    What is kept goes back with `give_memory_back`. Nothing is done where the environment says how memory is to be
    kept, and with other C libraries.
    """
    with _Keepers.lock:
        _Keepers.count += 1
        set_option = _find_mallopt()
        if set_option is None:
            return
        # Before glibc 2.35 no threshold above 32 MB is taken; there, nothing is asked for anew.
        if not set_option(_MMAP_THRESHOLD, _LARGEST_KEPT):
            set_option(_MMAP_MAX, 0)
        set_option(_TRIM_THRESHOLD, _NEVER_BY_ITSELF)


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """The same while the block runs; then what is kept goes back, and, where nobody else asks for it, glibc's own habit
    is left to the process."""
    keep_freed_memory()
    try:
        yield
    finally:
        with _Keepers.lock:
            _Keepers.count -= 1
            set_option = _find_mallopt()
            if set_option is not None and not _Keepers.count:
                # Who sets the one, as Dask does in its workers, has glibc stay at the first value of the other.
                stated = os.environ.get("MALLOC_TRIM_THRESHOLD_", "")
                is_stated = stated.isdecimal() and int(stated) <= _NEVER_BY_ITSELF
                set_option(_MMAP_MAX, _MOST_MAPPED)
                set_option(_MMAP_THRESHOLD, _FIRST if is_stated else _LARGEST_LEARNED)
                set_option(_TRIM_THRESHOLD, int(stated) if is_stated else 2 * _LARGEST_LEARNED)
        give_memory_back()


def _find_mallopt() -> Callable[[int, int], int] | None:
    if sys.platform != "linux" or any(name.startswith("MALLOC_MMAP_") for name in os.environ):
        return None
    if "glibc.malloc.mmap_" in os.environ.get("GLIBC_TUNABLES", ""):
        return None
    return getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none


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

"""What a process that handles packets by the million asks of its memory."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

__all__ = ["give_back", "keep_pages", "one_arena"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def keep_pages() -> None:
    """Tells the allocator to keep freed memory, for fresh pages for every array cost more than what is done with them; and
    the garbage collector to look less often at what is nearly all alive.
    """
    gc.set_threshold(50_000, 20, 100)
    gc.freeze()  # modules stay
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 64 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 128 << 20)


def one_arena() -> None:
    """Tells the allocator that threads are to share one heap: what one allocates here, another frees."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Has the allocator give freed pages back to the system, also those between others that are in use."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)

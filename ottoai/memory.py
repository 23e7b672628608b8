"""Memory of a process that runs for months: one heap, and when the garbage collector looks through all of it."""

import asyncio
import ctypes
import gc
import time
from typing import Final

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # mallopt(3)
LARGE: Final = 128 * 1024  # bytes; so large pieces are given back when freed. glibc would raise it up to 32 MiB

YOUNG: Final = (5_000, 20, 100)  # new objects; looks at the young; looks at those, until all are looked at
COLLECT_EVERY: Final = 60.0  # seconds between such looks, or more: they take
COLLECT_SHARE: Final = 0.001  # of the time at most; one takes 5 ms, and 70 more for each thousand sockets


def one_heap() -> None:
    """Have all threads take memory from one heap; to be called before there are any. glibc gives each a heap of its
    own, and what one frees the others cannot have: an api process under a steady load grew by 28 MiB an hour. Nor do
    large pieces, as the figures of all processes are, tear holes in it. Other C libraries have no such settings.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_THRESHOLD, LARGE)


def settle() -> None:
    """Have the garbage collector never look again at what the start made (60 ms, when it did), and by itself almost
    never at all the rest: nobody is served meanwhile, and it would do so in the midst of a rush. `collect` does.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*YOUNG)


async def collect(every: float = COLLECT_EVERY, share: float = COLLECT_SHARE) -> None:
    """Look through all that was made since the start, for ever, and free what only refers to itself, as each
    connection that has ended does (asyncio's transports). `every`: seconds from look to look; more where a look takes
    more than this `share` of them.
    """
    pause = every
    while True:
        await asyncio.sleep(pause)
        began = time.perf_counter()
        gc.collect()
        pause = max(every, (time.perf_counter() - began) / share)

"""Loops that run beside everything else, for as long as a resource is open."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

log = logging.getLogger(__name__)

# redis-py loses a cancellation that arrives together with its reply [seen]; so a task is told again.
CANCEL_AGAIN: Final = 0.05
BEGIN_AGAIN: Final = 1.0  # seconds: a loop that fails at once must not take the core

Loop = Callable[[], Coroutine[Any, Any, None]]


@asynccontextmanager
async def running(*loops: Loop) -> AsyncIterator[None]:
    """Run these beside the block. One that fails is logged and begun again: a loop that died would not be missed."""
    tasks = [asyncio.create_task(_for_ever(loop), name=getattr(loop, "__qualname__", None)) for loop in loops]
    try:
        yield
    finally:
        await end(tasks)


async def _for_ever(loop: Loop) -> None:
    while True:
        try:
            await loop()
            return
        except Exception:  # the edge of a loop: whatever stopped it, the process needs it
            log.exception(
                "A background loop failed; it begins again", extra={"loop": getattr(loop, "__qualname__", "")}
            )
            await asyncio.sleep(BEGIN_AGAIN)


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until they have ended."""
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN)

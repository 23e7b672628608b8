"""Asking a store for many at once: one exchange at a time, and who comes meanwhile goes with the next.

So a busy process asks no more often than an idle one, and nobody is answered by an exchange that had begun before they
asked: whatever was committed when they asked, they are told of.
"""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from ottoai.background import end

_Asked = TypeVar("_Asked")
_Answer = TypeVar("_Answer")


class Exchange(Generic[_Asked, _Answer]):
    """Gathers questions for `answer`, which gives as many answers, in order."""

    def __init__(self, answer: Callable[[Sequence[_Asked]], Awaitable[Sequence[_Answer]]], most: int) -> None:
        self._answer = answer
        self._most = most  # questions in one exchange
        self._waiting: list[tuple[_Asked, asyncio.Future[_Answer]]] = []
        self._task: asyncio.Task[None] | None = None

    def ask(self, question: _Asked) -> asyncio.Future[_Answer]:
        """The answer, once it is there. It fails as the exchange does; nobody needs to wait for it."""
        answer: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, answer))
        if self._task is None:
            # In no context: it is nobody's request in particular.
            self._task = asyncio.create_task(self._run(), context=contextvars.Context())
        return answer

    async def close(self) -> None:
        """End; who still waits is cancelled."""
        if self._task:
            await end([self._task])

    async def _run(self) -> None:
        asked: Sequence[tuple[_Asked, asyncio.Future[_Answer]]] = ()
        try:
            while self._waiting:
                asked, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                await self._exchange(asked)
        finally:
            self._task = None
            for _, answer in (*asked, *self._waiting):
                answer.cancel()
            self._waiting = []

    async def _exchange(self, asked: Sequence[tuple[_Asked, asyncio.Future[_Answer]]]) -> None:
        try:
            found = await self._answer([question for question, _ in asked])
        except Exception as error:  # noqa: BLE001 - passed on to whoever asked
            for _, answer in asked:
                if not answer.done():  # else its client went away
                    answer.set_exception(error)
                    answer.exception()  # seen, even if nobody waits
            return
        for (_, answer), each in zip(asked, found, strict=True):
            if not answer.done():
                answer.set_result(each)

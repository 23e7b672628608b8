"""Requests that have their effect once, however often they come: those that carry an Idempotency-Key.

The key is claimed in the statement that has the effect, and its unique index decides between two that come at once.
What was answered is kept with it for a day; an error is not, since nothing was done.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from ottoai.db import Row
from ottoai.errors import OutcomeUnknown, StoreUnavailable, Unprocessable

TRIES: Final = 3  # the first, one after an outcome that is unknown, one more if that commit came in between


class Request(msgspec.Struct, frozen=True):
    """Who asks for what. `key` None: it has its effect as often as it comes. `fingerprint`: a digest of all it says."""

    user_id: str
    key: str | None
    fingerprint: str


class Answer(msgspec.Struct, frozen=True):
    """What is answered: for the first time, or `replayed`."""

    status: int
    body: str
    replayed: bool


async def once(request: Request, act: Callable[[], Awaitable[Row]]) -> tuple[Answer | None, Row]:
    """Have a statement claim the key and act, or find what was answered before; None when it did neither. It returns
    outcome (replayed, reused, raced or its own), status and answer. Raises Unprocessable, StoreUnavailable.
    """
    unknown = False
    for _ in range(TRIES):
        try:
            row = await act()
        except OutcomeUnknown:
            if request.key is None or unknown:
                raise
            unknown = True  # with a key, asking again does nothing if it was done, and tells what was answered
            continue
        if row["outcome"] == "reused":
            raise Unprocessable("Idempotency-Key: was used for another request; take a new key for each")
        if row["outcome"] != "raced":
            answered = row["outcome"] in {"done", "replayed"}
            replayed = row["outcome"] == "replayed"
            return (Answer(row["status"], row["answer"], replayed) if answered else None), row
        # Another request with this key has just been answered: the next look sees it.
    raise StoreUnavailable

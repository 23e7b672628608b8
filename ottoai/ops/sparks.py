"""Sparklines: the last 24 hours of every indicator. Nothing here does I/O."""

from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from math import isfinite
from typing import Final

import msgspec

from ottoai.ops.history import History

HEIGHT: Final = 24  # units of the drawing; across, it has one for each point


class Spark(msgspec.Struct, frozen=True, kw_only=True):
    """An indicator's last 24 hours: for each quarter of an hour the most it was (null: not known), and the least and
    the most of these.
    """

    points: tuple[float | None, ...]
    least: float | None
    most: float | None


def sparks(history: History, indicators: Iterable[str], now: datetime) -> dict[str, Spark]:
    """All of them. Takes some tens of milliseconds."""
    return {each: _spark(history.spark(each, now.timestamp())) for each in indicators}


def _spark(found: list[float | None]) -> Spark:
    points = tuple(value if value is not None and isfinite(value) else None for value in found)
    known = [value for value in points if value is not None]
    return Spark(points=points, least=min(known, default=None), most=max(known, default=None))


@lru_cache(
    200
)  # more than there are indicators: a line changes once a quarter of an hour, and is asked for all the time
def line(points: tuple[float | None, ...]) -> str:
    """The line through the points as the `d` of an SVG path, in short steps; gaps where nothing is known."""
    known = [value for value in points if value is not None]
    least, span = min(known, default=0.0), max(known, default=0.0) - min(known, default=0.0)
    drawn: list[str] = []
    before: int | None = None
    for x, value in enumerate(points):
        if value is None:
            before = None
            continue
        y = HEIGHT // 2 if span == 0 else round(HEIGHT * (1 - (value - least) / span))
        # One point alone would be no line.
        drawn.append(f"M{x} {y}h.5h-.5" if before is None else f"l1 {y - before}")
        before = y
    return "".join(drawn)

"""What only refers to itself is freed, though the garbage collector is told to look seldom."""

import asyncio
import gc
import weakref
from contextlib import suppress

import pytest

from ottoai import background, memory


class Knot:
    """Something that refers to itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def settled():
    before = gc.get_threshold()
    memory.settle()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


async def test_what_refers_to_itself_is_freed_in_time(settled):
    knot = Knot()
    gc.collect()  # it is old now: looks at the young do not find it
    gone = asyncio.Event()
    weakref.finalize(knot, gone.set)
    del knot
    async with background.running(lambda: memory.collect(every=0.01)):
        await asyncio.wait_for(gone.wait(), 5)


async def test_looks_that_take_long_are_seldom(monkeypatch):
    looks, pauses = iter([0.001, 0.7]), []

    def collect() -> None:
        now[0] += next(looks)

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    now = [0.0]
    monkeypatch.setattr(memory.gc, "collect", collect)
    monkeypatch.setattr(memory.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(memory.asyncio, "sleep", sleep)
    with suppress(RuntimeError):  # no looks are left
        await memory.collect(every=60.0, share=0.001)
    assert pauses == [60.0, 60.0, pytest.approx(700.0)]

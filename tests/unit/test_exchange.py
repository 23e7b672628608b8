"""Asking for many at once: who is answered by which exchange, and what happens to who is not."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottoai.exchange import Exchange


class Store:
    """Answers when it is let, with the number of the exchange."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.let = asyncio.Event()

    async def answer(self, questions: list[int]) -> list[tuple[int, int]]:
        self.asked.append(list(questions))
        number = len(self.asked)
        await self.let.wait()
        return [(number, question) for question in questions]


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_who_comes_while_an_exchange_is_under_way_goes_with_the_next():
    store = Store()
    exchange = Exchange(store.answer, 10)
    first = [exchange.ask(1), exchange.ask(2)]
    await turns()
    assert store.asked == [[1, 2]]
    later = [exchange.ask(number) for number in (3, 4, 5)]
    await turns()
    assert store.asked == [[1, 2]], "one exchange at a time"
    store.let.set()
    assert await asyncio.gather(*first, *later) == [(1, 1), (1, 2), (2, 3), (2, 4), (2, 5)]


async def test_a_crowd_takes_several_exchanges():
    store = Store()
    store.let.set()
    exchange = Exchange(store.answer, 3)
    await asyncio.gather(*(exchange.ask(number) for number in range(7)))
    assert store.asked == [[0, 1, 2], [3, 4, 5], [6]]


async def test_a_failure_is_that_of_all_who_asked_and_of_nobody_else():
    async def answer(questions: list[int]) -> list[int]:
        if 1 in questions:
            raise LookupError
        return questions

    exchange = Exchange(answer, 10)
    failing = [exchange.ask(1), exchange.ask(2)]
    for each in failing:
        with pytest.raises(LookupError):
            await each
    assert await exchange.ask(3) == 3


async def test_who_goes_away_troubles_nobody():
    store = Store()
    exchange = Exchange(store.answer, 10)
    leaving, staying = exchange.ask(1), exchange.ask(2)
    await turns()
    leaving.cancel()
    store.let.set()
    assert await staying == (1, 2)


async def test_at_the_end_nobody_waits_for_ever():
    store = Store()
    exchange = Exchange(store.answer, 1)
    waiting = [exchange.ask(1), exchange.ask(2)]
    await turns()
    await exchange.close()
    assert all(each.cancelled() for each in waiting)


@given(st.lists(st.one_of(st.integers(0, 9), st.none()), max_size=30), st.integers(1, 4))
def test_nobody_is_answered_by_an_exchange_that_began_before_they_asked(steps, most):
    """None: the store gets its turn."""

    async def check() -> None:
        begun = 0

        async def answer(questions: list[int]) -> list[int]:
            nonlocal begun
            begun += 1
            mine = begun
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            return [mine] * len(questions)

        exchange = Exchange(answer, most)
        asked = []
        for step in steps:
            if step is None:
                await asyncio.sleep(0)
            else:
                asked.append((begun, exchange.ask(step)))
        for before, answered in asked:
            assert await answered > before

    asyncio.run(check())

"""What goes wrong: each fault does its harm, and undoes it after a while. What takes long goes on beside the next."""

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from dataclasses import dataclass, field

import psutil
import redis

from tests.chaos.clients import World
from tests.chaos.cluster import Cluster, Slot
from tests.chaos.links import Link, Proxy, State
from tests.chaos.truth import Log, Logs

Fault = Callable[["Chaos"], Coroutine[None, None, str]]
FAULTS: list[Fault] = []


def fault(work: Fault) -> Fault:
    FAULTS.append(work)
    return work


@dataclass
class Chaos:
    """What the faults have their hands on."""

    cluster: Cluster
    world: World
    logs: Logs
    rng: random.Random
    drains: set[asyncio.Task[None]] = field(default_factory=set)
    others: set[asyncio.Task[None]] = field(default_factory=set)

    def beside(self, work: Coroutine[None, None, None], *, drain: bool = False) -> None:
        """Go on with this beside what comes next."""
        task = asyncio.get_running_loop().create_task(work)
        tasks = self.drains if drain else self.others
        tasks.add(task)

        def over(done: asyncio.Task[None]) -> None:
            tasks.discard(done)
            if not done.cancelled() and (error := done.exception()):
                self.world.broken.append(f"{done.get_coro()}: {error!r}")

        task.add_done_callback(over)

    def after(self, seconds: float, undo: Callable[[], None]) -> None:
        async def wait() -> None:
            try:
                await asyncio.sleep(seconds)
            finally:
                undo()

        self.beside(wait())

    async def quiet(self) -> None:
        """All that was harmed is whole again, but for processes that are still draining."""
        while self.others:
            await asyncio.wait(self.others)

    async def stop(self) -> None:
        tasks = self.others | self.drains
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def some(self, low: float, high: float) -> list[Link]:
        """A share of the clients' links, between these."""
        links = self.cluster.address.working
        return self.rng.sample(links, round(len(links) * self.rng.uniform(low, high)))

    def slot(self) -> Slot | None:
        """A slot that no other fault is at work in."""
        free = [slot for slot in self.cluster.slots if not slot.busy]
        return self.rng.choice(free) if free else None

    def log(self) -> Log:
        return self.rng.choice(list(self.logs.of.values()))


async def _again(chaos: Chaos, slot: Slot, pause: float) -> None:
    try:
        await asyncio.sleep(pause)
        await chaos.cluster.run(slot)
    finally:
        slot.busy = False


async def _kill(chaos: Chaos, slot: Slot) -> str:
    slot.busy = True
    assert slot.api
    await chaos.cluster.kill(slot.api)
    pause = chaos.rng.choice((0.0, 0.0, 0.5, 1.5))
    chaos.beside(_again(chaos, slot, pause))
    return f"{slot.api.name}, back after {pause} s"


@fault
async def kill_api(chaos: Chaos) -> str:
    slot = chaos.slot()
    return await _kill(chaos, slot) if slot else "nobody to kill"


@fault
async def kill_every_api(chaos: Chaos) -> str:
    free = [slot for slot in chaos.cluster.slots if not slot.busy]
    return "; ".join(await asyncio.gather(*(_kill(chaos, slot) for slot in free)))


@fault
async def drain_api(chaos: Chaos) -> str:
    """SIGTERM; its successor comes up while it goes."""
    slot = chaos.slot()
    if slot is None or slot.api is None or len(chaos.drains) >= 2:
        return "nobody to stop"
    slot.busy = True
    api = slot.api
    chaos.beside(chaos.cluster.drain(api), drain=True)
    chaos.beside(_again(chaos, slot, 0.0))
    return api.name


@fault
async def suspend_api(chaos: Chaos) -> str:
    """It stands still and does not know; then it goes on."""
    slot = chaos.slot()
    if slot is None or slot.api is None:
        return "nobody to suspend"
    slot.busy = True
    api, seconds = slot.api, round(chaos.rng.uniform(0.5, 4.0), 1)
    api.process.send_signal(signal.SIGSTOP)

    def undo() -> None:
        api.process.send_signal(signal.SIGCONT)
        slot.busy = False

    chaos.after(seconds, undo)
    return f"{api.name} for {seconds} s"


@fault
async def kill_redis(chaos: Chaos) -> str:
    seconds = chaos.rng.choice((0.0, 0.3, 1.5))
    await chaos.cluster.crash_redis()
    await asyncio.sleep(seconds)
    await asyncio.to_thread(chaos.cluster.redis.start)
    return f"for {seconds} s"


@fault
async def flush_redis(chaos: Chaos) -> str:
    def flush() -> None:
        with closing(redis.Redis.from_url(chaos.cluster.redis.url, socket_timeout=5)) as store:
            store.flushall()
            store.client_kill_filter(_type="pubsub")

    await asyncio.to_thread(flush)
    return "and its listeners thrown out"


@fault
async def suspend_redis(chaos: Chaos) -> str:
    seconds = round(chaos.rng.uniform(0.5, 3.0), 1)
    pid = chaos.cluster.redis.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)
    return f"for {seconds} s"


@fault
async def suspend_database(chaos: Chaos) -> str:
    seconds = round(chaos.rng.uniform(0.3, 1.0), 1)
    processes = chaos.cluster.database_processes()
    try:
        for process in processes:
            _signal(process, signal.SIGSTOP)
        await asyncio.sleep(seconds)
    finally:
        for process in processes:
            _signal(process, signal.SIGCONT)
    return f"for {seconds} s"


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        pass


@fault
async def cut_links(chaos: Chaos) -> str:
    """Some at once, some in the middle of the next frame."""
    links = chaos.some(*chaos.rng.choice(((0.1, 0.4), (0.4, 0.9), (1.0, 1.0))))
    for link in links:
        if chaos.rng.random() < 0.5:
            link.cut_after = chaos.rng.randrange(200)
        else:
            link.reset()
    return f"{len(links)} of the clients"


@fault
async def darken_links(chaos: Chaos) -> str:
    """Half open: neither end is told anything ever again."""
    chaos.cluster.address.reap(60.0)
    links = chaos.some(0.05, 0.15)
    for link in links:
        link.darken(chaos.rng.choice((State.HELD, State.SWALLOWED)))
    return f"{len(links)} of the clients"


@fault
async def hold_links(chaos: Chaos) -> str:
    """What is sent comes late, in a heap."""
    links, seconds = chaos.some(0.1, 0.5), round(chaos.rng.uniform(0.3, 3.0), 1)
    for link in links:
        link.darken(State.HELD)

    def undo() -> None:
        for link in links:
            if link.state is State.HELD:
                link.release()

    chaos.after(seconds, undo)
    return f"{len(links)} of the clients for {seconds} s"


@fault
async def refuse_clients(chaos: Chaos) -> str:
    links, seconds = chaos.some(0.2, 0.5), round(chaos.rng.uniform(0.3, 1.5), 1)
    _refuse(chaos, chaos.cluster.address, seconds)
    for link in links:
        link.reset()
    return f"for {seconds} s, and {len(links)} cut"


def _refuse(chaos: Chaos, proxy: Proxy, seconds: float) -> None:
    proxy.refusing = True

    def undo() -> None:
        proxy.refusing = False

    if seconds:
        chaos.after(seconds, undo)
    else:
        undo()


@fault
async def cut_redis_link(chaos: Chaos) -> str:
    """One process loses Redis; the others go on."""
    slot, seconds = chaos.rng.choice(chaos.cluster.slots), chaos.rng.choice((0.0, 0.5, 2.0))
    _refuse(chaos, slot.redis, seconds)
    slot.redis.reset_all()
    return f"of slot {slot.number} for {seconds} s"


@fault
async def hold_redis_link(chaos: Chaos) -> str:
    """One process hears nothing from Redis, at times longer than it takes to notice; then everything, late."""
    slot, seconds = chaos.rng.choice(chaos.cluster.slots), round(chaos.rng.uniform(0.5, 7.0), 1)
    _hold(chaos, slot.redis, seconds)
    return f"of slot {slot.number} for {seconds} s"


def _hold(chaos: Chaos, proxy: Proxy, seconds: float) -> None:
    links = proxy.working
    for link in links:
        link.darken(State.HELD)

    def undo() -> None:
        for link in links:
            link.release()

    chaos.after(seconds, undo)


@fault
async def cut_database_link(chaos: Chaos) -> str:
    """In the middle of whatever it was at."""
    slot, seconds = chaos.rng.choice(chaos.cluster.slots), chaos.rng.choice((0.0, 0.5, 1.5))
    _refuse(chaos, slot.database, seconds)
    slot.database.reset_all()
    return f"of slot {slot.number} for {seconds} s"


@fault
async def hold_database_link(chaos: Chaos) -> str:
    slot, seconds = chaos.rng.choice(chaos.cluster.slots), round(chaos.rng.uniform(0.3, 3.0), 1)
    _hold(chaos, slot.database, seconds)
    return f"of slot {slot.number} for {seconds} s"


@fault
async def new_epoch(chaos: Chaos) -> str:
    return await _change(chaos, chaos.log(), 0)


@fault
async def restore_backup(chaos: Chaos) -> str:
    """A new epoch, and the last events are gone; others will have their numbers."""
    return await _change(chaos, chaos.log(), chaos.rng.randint(1, 8))


async def _change(chaos: Chaos, log: Log, back: int) -> str:
    async with log.freezing():
        log.changing, log.changed_at = True, time.monotonic()
        try:
            await asyncio.to_thread(chaos.logs.change, log, back)
        finally:
            log.changed_at = time.monotonic()
            log.changing = False
    return f"of {log.tenant}: {log.epoch}.{log.head}, {back} back"


@fault
async def delete_old_events(chaos: Chaos) -> str:
    """Up to the very last ones, so that some are gone before everybody has heard them."""
    log = chaos.log()
    await asyncio.to_thread(chaos.logs.delete, log, chaos.rng.choice((0, 0, 5, 50)))
    return f"of {log.tenant} up to {log.deleted_to}"


# How often, compared with the others: what the requirement names comes more often than what it does not.
WEIGHTS = {kill_api: 5, drain_api: 2, kill_redis: 3, flush_redis: 2, cut_links: 3, darken_links: 2, cut_redis_link: 2}


def deck(rng: random.Random, *, weighted: bool) -> Iterator[Fault]:
    """All faults in some order, again and again."""
    while True:
        cards = [one for one in FAULTS for _ in range(WEIGHTS.get(one, 1) if weighted else 1)]
        rng.shuffle(cards)
        yield from cards

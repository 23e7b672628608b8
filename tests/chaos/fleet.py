"""All processes and stores of a deployment, each with links of its own to the stores, and what can happen to them."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, closing
from pathlib import Path

import psutil
import psycopg2
import redis

from ottoai import embedded
from ottoai.config import Config
from ottoai.db import open_pool
from ottoai.domain import tenants
from ottoai.embedded.folder import any_port
from ottoai.metrics import Metrics
from ottoai.migrate import migrate
from ottoai.queue import QUEUES
from ottoai.vault import Vault
from tests.chaos.cluster import ROOT, TOOLS, _through
from tests.chaos.links import HOST, Proxy, State
from tests.conftest import SECRET, SECRET_KEY, SIGNING_KEY, execute

PLACES = {"api-1": "ottoai api", "api-2": "ottoai api", "worker-1": "jobs worker", "worker-2": "jobs worker",
          "beat-1": "jobs beat"}  # fmt: skip
READY_WITHIN = 60.0
STOPPED_WITHIN = 40.0
LEASE = "3"  # seconds; a killed worker's job is another's after that

Fault = Callable[[], Coroutine[None, None, str]]


class Place:
    """Where a process runs, dies and is started again."""

    def __init__(self, name: str, redis_port: int, database_port: int) -> None:
        self.name = name
        self.redis = Proxy(lambda: [redis_port])
        self.database = Proxy(lambda: [database_port])
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.busy = False


class Fleet:
    """Everything that runs. Faults end by themselves, in tasks that `quiet` waits for."""

    def __init__(self, folder: Path, rng: random.Random, names: list[str], **settings: str) -> None:
        self.folder = folder
        self.settings = settings
        self.rng = rng
        self.names = names
        self.places: list[Place] = []
        self.address = Proxy(self._choose)
        self.done: Counter[str] = Counter()
        self.victims: tuple[str, ...] = tuple(PLACES)  # beginnings of the names of those that may die
        self._turn = 0
        self._undoing: set[asyncio.Task[None]] = set()
        self._stack = ExitStack()
        self._database_away = self._redis_away = False

    async def start(self) -> None:
        enter = self._stack.enter_context
        self.database = await asyncio.to_thread(enter, embedded.postgres(self.folder))
        self.redis = await asyncio.to_thread(enter, embedded.redis(self.folder))
        await asyncio.to_thread(migrate, self.database.url)
        config = Config.load(self.environ(self.database.url, self.redis.url))
        async with open_pool(config, Metrics("chaos")) as db:
            for number, name in enumerate(self.names):
                given = {"callrail_company": str(1000 + number), "callrail_key": SIGNING_KEY.format(name)}
                await tenants.add(db.system(), Vault((SECRET_KEY,)), name, name, "America/New_York", "always", given)
        await self.address.open()
        for name in PLACES:
            place = Place(name, self.redis.port, self.database.port)
            self.places.append(place)
            await place.redis.open()
            await place.database.open()
            self.begin(place)
        for place in self.places:
            if place.name.startswith("api"):
                await self._listening(place)

    async def _listening(self, place: Place) -> None:
        deadline = time.monotonic() + READY_WITHIN
        while True:
            try:
                _, writer = await asyncio.open_connection(HOST, place.port)
            except OSError:
                assert place.process is not None
                if place.process.poll() is not None or time.monotonic() > deadline:
                    log = (self.folder / f"{place.name}.log").read_text(errors="replace")
                    raise AssertionError(f"{place.name} did not start:\n{log[-3000:]}") from None
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return

    def environ(self, database_url: str, redis_url: str) -> dict[str, str]:
        return TOOLS | {
            "ENVIRONMENT": "test",
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "JWT_SECRET": SECRET,
            "SECRET_KEYS": SECRET_KEY,
            "SPOOL_DIR": str(self.folder / "spool"),
            "WORKER_LEASE_SECONDS": LEASE,
            "LOG_LEVEL": "WARNING",
            "PYTHONUNBUFFERED": "1",
            **self.settings,
        }

    def begin(self, place: Place) -> None:
        place.port = any_port()
        environ = self.environ(_through(place.database, self.database.url), _through(place.redis, self.redis.url))
        with (self.folder / f"{place.name}.log").open("ab") as out:
            place.process = subprocess.Popen(
                [sys.executable, "-m", *PLACES[place.name].split()], cwd=ROOT,
                env=environ | {"PORT": str(place.port)}, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip

    def _choose(self) -> list[int]:
        """One api process after the other gets a delivery; who does not listen is passed over."""
        self._turn += 1
        ports = [place.port for place in self.places if place.name.startswith("api")]
        return [ports[(self._turn + n) % len(ports)] for n in range(len(ports))]

    # What happens

    @property
    def faults(self) -> list[Fault]:
        return [
            self.kill, self.kill, self.kill, self.suspend, self.suspend, self.terminate, self.kill_redis,
            self.suspend_redis, self.flush_redis, self.kill_database, self.suspend_database, self.cut, self.cut,
            self.hold, self.lose_queues, self.pause_queue,
        ]  # fmt: skip

    def _after(self, seconds: float, undo: Callable[[], Coroutine[None, None, None]]) -> None:
        async def wait() -> None:
            try:
                await asyncio.sleep(seconds)
            finally:
                await undo()

        task = asyncio.get_running_loop().create_task(wait())
        self._undoing.add(task)
        task.add_done_callback(self._undoing.discard)

    async def quiet(self) -> None:
        while self._undoing:
            await asyncio.wait(self._undoing)

    def _place(self) -> Place | None:
        free = [place for place in self.places if not place.busy and place.name.startswith(self.victims)]
        return self.rng.choice(free) if free else None

    async def replace(self, number: signal.Signals, place: Place | None = None) -> str:
        """Send a process its end, and start another in its place."""
        place = place or self._place()
        if place is None or place.process is None:
            return "nobody"
        place.busy = True
        old, pause = place.process, self.rng.choice((0.0, 0.3, 1.0))
        old.send_signal(number)

        async def back() -> None:
            await asyncio.to_thread(old.wait, STOPPED_WITHIN)
            self.begin(place)
            place.busy = False

        self._after(pause, back)
        return f"{place.name} for {pause} s"

    async def kill(self) -> str:
        return await self.replace(signal.SIGKILL)

    async def terminate(self) -> str:
        return await self.replace(signal.SIGTERM)

    async def suspend(self, place: Place | None = None, seconds: float = 0.0) -> str:
        place, seconds = place or self._place(), seconds or round(self.rng.uniform(0.5, 5.0), 1)
        if place is None or place.process is None:
            return "nobody"
        place.busy = True
        process = place.process
        process.send_signal(signal.SIGSTOP)

        async def go_on() -> None:
            process.send_signal(signal.SIGCONT)
            place.busy = False

        self._after(seconds, go_on)
        return f"{place.name} for {seconds} s"

    async def stop_redis(self) -> None:
        """Until `start_redis`; no fault touches it meanwhile."""
        self._redis_away = True
        await asyncio.to_thread(self.redis.stop)

    async def start_redis(self) -> None:
        await asyncio.to_thread(self.redis.start)
        self._redis_away = False

    async def stop_database(self) -> None:
        self._database_away = True
        await asyncio.to_thread(self.database.stop)

    async def start_database(self) -> None:
        await asyncio.to_thread(self.database.start)
        self._database_away = False

    async def remove(self, kind: str) -> None:
        """All processes of a kind end, and none is started; `put_back` does that."""
        for place in self.places:
            if place.name.startswith(kind) and place.process is not None:
                place.busy = True
                place.process.kill()
                await asyncio.to_thread(place.process.wait, STOPPED_WITHIN)

    async def put_back(self, kind: str) -> None:
        for place in self.places:
            if place.name.startswith(kind):
                self.begin(place)
                place.busy = False

    async def kill_redis(self) -> str:
        if self._redis_away:
            return "away already"
        self._redis_away = True
        seconds = self.rng.choice((0.0, 0.5, 2.0))
        os.kill(self.redis.pid, signal.SIGKILL)
        await asyncio.to_thread(self.redis.stop)

        async def back() -> None:
            await asyncio.to_thread(self.redis.start)
            self._redis_away = False

        self._after(seconds, back)
        return f"for {seconds} s"

    async def suspend_redis(self) -> str:
        if self._redis_away:
            return "away already"
        return self._stop_and_go([psutil.Process(self.redis.pid)], "_redis_away")

    async def flush_redis(self) -> str:
        if self._redis_away:
            return "away already"

        def flush() -> None:
            with closing(redis.Redis.from_url(self.redis.url, socket_timeout=5)) as store:
                store.flushall()

        await asyncio.to_thread(flush)
        return "of everything"

    async def kill_database(self) -> str:
        """All of its processes, as when the machine loses power."""
        if self._database_away:
            return "away already"
        self._database_away = True
        seconds = self.rng.choice((0.0, 1.0, 3.0))
        for process in self._database_processes():
            _signal(process, signal.SIGKILL)
        await asyncio.to_thread(self.database.stop)

        async def back() -> None:
            await asyncio.to_thread(self.database.start)
            self._database_away = False

        self._after(seconds, back)
        return f"for {seconds} s"

    async def suspend_database(self) -> str:
        if self._database_away:
            return "away already"
        return self._stop_and_go(self._database_processes(), "_database_away")

    def _database_processes(self) -> list[psutil.Process]:
        found = psutil.Process(self.database.pid)
        return [found, *found.children(recursive=True)]

    def _stop_and_go(self, processes: list[psutil.Process], flag: str) -> str:
        setattr(self, flag, True)
        seconds = round(self.rng.uniform(0.3, 4.0), 1)
        for process in processes:
            _signal(process, signal.SIGSTOP)

        async def go_on() -> None:
            for process in processes:
                _signal(process, signal.SIGCONT)
            setattr(self, flag, False)

        self._after(seconds, go_on)
        return f"for {seconds} s"

    async def lose_queues(self) -> str:
        """Of all that RQ and rq-scheduler keep nothing is left; whatever else is in Redis stays."""

        def delete() -> int:
            with closing(redis.Redis.from_url(self.redis.url, socket_timeout=5)) as store:
                names = list(store.scan_iter("rq:*", count=1000))
                return int(store.delete(*names)) if names else 0

        if self._redis_away:
            return "nobody"
        return f"{await asyncio.to_thread(delete)} keys"

    async def pause_queue(self) -> str:
        """An operator stops a queue, and lets it go on after a while."""
        queue, seconds = self.rng.choice(QUEUES), round(self.rng.uniform(0.5, 3.0), 1)
        sql = "insert into paused_queues (queue, paused_by) values (%s, 'chaos') on conflict do nothing returning queue"
        try:
            if self._database_away or not await asyncio.to_thread(execute, self.database.url, sql, queue):
                return "nobody"
        except psycopg2.OperationalError:
            return "nobody"

        async def resume() -> None:
            sql = "delete from paused_queues where queue = %s"
            while True:
                try:
                    await asyncio.to_thread(execute, self.database.url, sql, queue)
                    return
                except psycopg2.OperationalError:  # it is away meanwhile
                    await asyncio.sleep(0.3)

        self._after(seconds, resume)
        return f"{queue} for {seconds} s"

    def _link(self) -> tuple[Proxy, str]:
        place = self.rng.choice(self.places)
        return self.rng.choice(((place.redis, f"{place.name} from Redis"), (place.database, f"{place.name} from PG")))

    async def cut(self) -> str:
        proxy, name = self._link()
        seconds = self.rng.choice((0.0, 0.5, 3.0))
        proxy.refusing = True
        proxy.reset_all()

        async def mend() -> None:
            proxy.refusing = False

        self._after(seconds, mend)
        return f"{name} for {seconds} s"

    async def hold(self) -> str:
        """Nothing passes, and neither end is told."""
        proxy, name = self._link()
        seconds, links = round(self.rng.uniform(0.5, 5.0), 1), proxy.working
        for link in links:
            link.darken(State.HELD)

        async def release() -> None:
            for link in links:
                link.release()

        self._after(seconds, release)
        return f"{name} for {seconds} s"

    # The end

    async def stop(self) -> None:
        for task in list(self._undoing):
            task.cancel()
        await asyncio.gather(*self._undoing, return_exceptions=True)
        for place in self.places:
            if place.process is not None and place.process.poll() is None:
                place.process.send_signal(signal.SIGCONT)
                place.process.kill()
                await asyncio.to_thread(place.process.wait, STOPPED_WITHIN)
        for proxy in (self.address, *(proxy for place in self.places for proxy in (place.redis, place.database))):
            await proxy.close()
        await asyncio.to_thread(self._stack.close)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        pass

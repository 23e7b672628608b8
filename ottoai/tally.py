"""What each process says about itself: figures and heartbeat, left in Redis for whichever API process is asked.

A `Reporter` writes its process's `Snapshot` from a thread of its own, so a busy process is still heard.
`read` gives the snapshots of all processes; `merge` puts their figures side by side under a `proc` label. Nothing is
ever added up here: a sum of counters shrinks when a process dies, and a counter that shrinks looks like a restart.
"""

import logging
import os
import re
import socket
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from types import TracebackType
from typing import Final, NamedTuple, Self

import msgspec
import redis
import redis.asyncio
from msgspec import UNSET, UnsetType
from redis.backoff import NoBackoff
from redis.retry import Retry

from ottoai.instruments import escape
from ottoai.metrics import Kind

logger = logging.getLogger(__name__)

EVERY_SECONDS: Final = 5.0  # three misses still fit into ALIVE_SECONDS, and a scrape is never much older than this
PAUSE_SECONDS: Final = 0.5  # between two writes: a hundred jobs a second must not mean a hundred snapshots
ALIVE_SECONDS: Final = 30.0  # the promise of /internal/worker/heartbeat
# A dead process's last figures stay this long: every scraper and every alert window of ten minutes sees its final
# counts, and a process that crashes every second fills Redis with minutes of snapshots, not with days.
KEEP_SECONDS: Final = 900
TIMEOUT_SECONDS: Final = 1.0  # for one reply; the thread may wait, but the process's exit waits for the thread

_INDEX: Final = "tally:processes"  # sorted set: name by time of its last snapshot
_SNAPSHOT: Final = "tally:process:{}"


class Client(msgspec.Struct, frozen=True):
    """A live connection. `unsent`: bytes that it has not taken yet."""

    id: str
    tenant_id: str
    user_id: str
    seconds: float
    unsent: int


class Clients(msgspec.Struct, frozen=True):
    """The live connections of an api process: how many, and a few of them. `slowest`: those that are behind at all."""

    open: int = 0
    slowest: list[Client] = []
    newest: list[Client] = []


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One process at one moment. `ticked_at`: when beat last went through its schedule; the last `state` is stopped.
    `clients`: of api processes.
    """

    kind: Kind
    name: str
    host: str
    pid: int
    version: str
    started_at: datetime
    at: datetime
    state: str = "running"
    queues: list[str] = []
    current_job: str | None = None
    ticked_at: datetime | None = None
    clients: Clients | None = None
    metrics_text: str = ""


def process_name(kind: Kind) -> str:
    """A name that no other living process has, and that stays as short-lived as the process."""
    return f"{kind}-{socket.gethostname()}-{os.getpid()}"


def alive(snapshot: Snapshot, now: datetime) -> bool:
    """Whether the process was heard lately and has not said goodbye."""
    return snapshot.state != "stopped" and now - snapshot.at < timedelta(seconds=ALIVE_SECONDS)


class Reporter:
    """Writes this process's snapshot every few seconds, soon after `update`, and a last time at `close`.

    `figures` renders the process's metrics, `clients` tells of its connections. Nothing here raises: without Redis the
    process is only not heard.
    """

    def __init__(
        self,
        redis_url: str,
        kind: Kind,
        *,
        version: str,
        figures: Callable[[], str],
        clients: Callable[[], Clients | None] = lambda: None,
        name: str | None = None,
    ) -> None:
        now = datetime.now(UTC)
        self._figures = figures
        self._clients = clients
        self._snapshot = Snapshot(
            kind=kind,
            name=name or process_name(kind),
            host=socket.gethostname(),
            pid=os.getpid(),
            version=version,
            started_at=now,
            at=now,
        )
        self._redis = redis.Redis.from_url(
            redis_url,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        self._lost = False
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tally", daemon=True)

    @property
    def name(self) -> str:
        """The process's name, and its `proc` label."""
        return self._snapshot.name

    def snapshot(self) -> Snapshot:
        """What would be written now. Takes a few milliseconds; any thread may call it."""
        return msgspec.structs.replace(
            self._snapshot, at=datetime.now(UTC), clients=self._clients(), metrics_text=self._figures()
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def update(
        self,
        *,
        state: str | UnsetType = UNSET,
        queues: list[str] | UnsetType = UNSET,
        current_job: str | UnsetType | None = UNSET,
        ticked_at: datetime | UnsetType = UNSET,
    ) -> None:
        """Change what is given; written within half a second, never waited for. One thread of a process calls this."""
        changes = {"state": state, "queues": queues, "current_job": current_job, "ticked_at": ticked_at}
        given = {field: value for field, value in changes.items() if value is not UNSET}
        self._snapshot = msgspec.structs.replace(self._snapshot, **given)
        self._wake.set()

    def close(self) -> None:
        """Say goodbye and stop; waits at most a few timeouts. A second call does nothing."""
        if self._closing.is_set():
            return
        self._snapshot = msgspec.structs.replace(self._snapshot, state="stopped", current_job=None)
        self._closing.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(4 * TIMEOUT_SECONDS)

    def run_once(self) -> None:
        """Write one snapshot. A failure is logged when it begins, and its end when it ends."""
        try:
            self._write()
        except Exception as error:  # the edge of a thread whose death nobody would notice
            if not self._lost:
                logger.warning(
                    "Heartbeat cannot be written: %s", error, exc_info=not isinstance(error, redis.RedisError)
                )
            self._lost = True
        else:
            if self._lost:
                logger.info("Heartbeat is written again")
            self._lost = False

    def _write(self) -> None:
        # By Redis's clock, which all processes have in common: a process whose own is wrong would otherwise look dead,
        # or take all others for dead.
        now = _time(self._redis.time())
        snapshot = msgspec.structs.replace(self.snapshot(), at=now)
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.set(_SNAPSHOT.format(snapshot.name), msgspec.json.encode(snapshot), ex=KEEP_SECONDS)
            pipe.zadd(_INDEX, {snapshot.name: now.timestamp()})
            pipe.zremrangebyscore(_INDEX, "-inf", now.timestamp() - KEEP_SECONDS)
            pipe.expire(_INDEX, KEEP_SECONDS)
            pipe.execute()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.clear()
            self.run_once()
            self._closing.wait(PAUSE_SECONDS)
            self._wake.wait(EVERY_SECONDS - PAUSE_SECONDS)
        self.run_once()
        self._redis.close()


async def read(client: redis.asyncio.Redis) -> list[Snapshot]:
    """What all processes last said, newest first, the dead of the last quarter of an hour among them.

    Two round trips. Raises redis.RedisError. A snapshot that this version cannot read is left out. `at` is by the
    reader's clock.
    """
    async with client.pipeline(transaction=False) as pipe:
        pipe.zrange(_INDEX, 0, -1)
        pipe.time()
        names, time = await pipe.execute()
    ahead = datetime.now(UTC) - _time(time)
    keys = [_SNAPSHOT.format(name.decode() if isinstance(name, bytes) else name) for name in names]
    if not keys:
        return []
    found = [_decoded(raw) for raw in await client.mget(keys) if raw is not None]
    heard = [msgspec.structs.replace(each, at=each.at + ahead) for each in found if each is not None]
    return sorted(heard, key=lambda each: each.at, reverse=True)


def _time(told: tuple[int, int]) -> datetime:
    """What Redis's TIME tells: seconds and microseconds."""
    return datetime.fromtimestamp(told[0], UTC) + timedelta(microseconds=told[1])


def _decoded(raw: bytes | str) -> Snapshot | None:
    try:
        return msgspec.json.decode(raw, type=Snapshot)
    except msgspec.DecodeError as error:
        logger.warning("A heartbeat cannot be read: %s", error)
        return None


_LABEL: Final = r'[a-zA-Z_]\w*="(?:[^"\\]|\\.)*"'
_VALUE: Final = r"[-+]?(?:[\d.]+(?:e[-+]?\d+)?|inf|nan)(?: -?\d+)?"
_SAMPLE: Final = re.compile(rf"([a-z_:][\w:]*)(?:\{{((?:{_LABEL},?)*)\}})? ({_VALUE})", re.ASCII | re.IGNORECASE)
_PAIR: Final = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"', re.ASCII)
_ESCAPE: Final = re.compile(r"\\(.)")
_SUFFIXES: Final = ("", "_bucket", "_sum", "_count")
# What a dead process still has: it says of its counts that they began at 0 then.
_OUTLASTS: Final = "process_start_time_seconds"


class Sample(NamedTuple):
    """One line of a Prometheus text: its full name (`x_bucket`), its family's type, labels, value."""

    name: str
    kind: str
    labels: Mapping[str, str]
    value: float


def samples(text: str) -> Iterator[Sample]:
    """The samples of one process's text. Lines that are not in the format are left out."""
    kind = "untyped"
    for line in text.split("\n"):  # as in _gather
        if line.startswith("#"):
            if line.startswith("# TYPE "):
                kind = line.rpartition(" ")[2]
        elif sample := _SAMPLE.fullmatch(line):
            name, labels, value = sample.groups()
            yield Sample(name, kind, _labels(labels) if labels else {}, float(value.partition(" ")[0]))


@lru_cache(10_000)
def _labels(text: str) -> Mapping[str, str]:
    return {name: _ESCAPE.sub(_unescaped, value) for name, value in _PAIR.findall(text)}


def _unescaped(found: re.Match[str]) -> str:
    return "\n" if found[1] == "n" else found[1]


class _Family:
    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.help = ""
        self.samples: list[str] = []


def merge(texts: Mapping[str, str], dead: Collection[str] = ()) -> str:
    """The Prometheus texts of several processes as one: families together, each sample with its `proc`.

    Of the `dead` among them, what they counted stays; what they had – memory, connections – is left out. Of a family
    that two versions declare with different types the first one is kept. Lines that are not in the format are left
    out: one bad line would cost the reader the whole page.
    """
    families: dict[str, _Family] = {}
    for process, text in texts.items():
        _gather(f'proc="{escape(process)}"', text, families, dead=process in dead)
    lines: list[str] = []
    for name, family in sorted(families.items()):
        lines += [f"# HELP {name} {family.help}", f"# TYPE {name} {family.kind}", *family.samples]
    return "".join(f"{line}\n" for line in lines)


def _gather(label: str, text: str, families: dict[str, _Family], *, dead: bool) -> None:
    kinds: dict[str, str] = {}
    helps: dict[str, str] = {}
    for line in text.split("\n"):  # not splitlines(): a label value may hold other separators
        if line.startswith("#"):
            _, word, name, value = [*line.split(" ", 3), "", "", ""][:4]
            if word in ("TYPE", "HELP"):
                (kinds if word == "TYPE" else helps)[name] = value
            continue
        if not (sample := _SAMPLE.fullmatch(line)):
            continue
        full, labels, value = sample.groups()
        name = next((full.removesuffix(end) for end in _SUFFIXES if full.removesuffix(end) in kinds), full)
        if dead and kinds.get(name) == "gauge" and name != _OUTLASTS:
            continue
        family = families.setdefault(name, _Family(kinds.get(name, "untyped")))
        family.help = family.help or helps.get(name, "")
        if family.kind == kinds.get(name, "untyped"):
            family.samples.append(f"{full}{{{label}{',' + labels if labels else ''}}} {value}")

"""What is measured of everything that runs, and what each figure may grow by."""

import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Final

import psutil
import psycopg2
import redis

from tests.soak.judge import Bound, Series
from tests.soak.stand import Stand

MIB: Final = 1024 * 1024
# Where retention or the end of a matter takes rows away. All other tables hold what happened, and grow with it.
PASSING: Final = (
    "events", "idempotency_keys", "payloads", "unclaimed_deliveries", "request_keys", "outbox", "ops_minutes",
)  # fmt: skip
FEW: Final = (  # as many as there are tenants, users, processes, kinds of something
    "heads", "tenants", "tenant_routes", "credentials", "users", "clerk_users", "ops_hours", "ops_leases", "ops_audit",
    "alerts", "paused_queues", "periodic_runs", "recaps", "revocations", "reconciliations", "opt_outs",
    "development_texts",
)  # fmt: skip
LASTING: Final = ("calls", "leads", "missed_calls", "messages", "tasks")

# By the beginning of the figure's name, the first that fits. A figure that comes and goes with the load has noise.
# Memory: a process that gains less than 6 MiB in an hour is restarted by a deployment long before its machine (256 MB
# for a worker, see WORKER_MEMORY_MB) is full; what leaks with each request or message shows at once at these rates.
BOUNDS: Final[tuple[tuple[str, str, Bound], ...]] = (
    ("memory of PostgreSQL", "bytes", Bound(an_hour=24 * MIB, noise=16 * MIB)),  # backends keep plans and catalogues
    ("memory of", "bytes", Bound(an_hour=6 * MIB, noise=2 * MIB)),
    # Connections come and go, and which api process they are at wanders: of two, one has more and then the other.
    ("files of", "", Bound(an_hour=1, noise=12, share=0.10)),
    ("threads of", "", Bound(noise=8)),  # pools of a few, that are full after the first rush
    ("PostgreSQL connections idle in transaction", "", Bound(noise=2, most=20)),
    ("PostgreSQL connections", "", Bound(noise=3, most=120)),
    ("Redis connections", "", Bound(noise=8)),  # likewise
    # Cached pages are as short as the lists are, for a good part of the hour: each has a bound instead, of its own.
    ("Redis memory beside cached pages", "bytes", Bound(an_hour=1 * MIB, noise=1 * MIB, share=0.02)),
    ("size of a cached page", "bytes", Bound(noise=64 * 1024, most=64 * 1024)),
    ("Redis elements ops:told", "", Bound(noise=200)),  # one for each alert that there is
    ("Redis keys", "", Bound(noise=15, share=0.10)),
    ("Redis elements", "", Bound(noise=25, share=0.10)),
    ("rows of", "", Bound(noise=100, share=0.10)),
    ("dead rows of", "", Bound(noise=1000, share=0.25)),  # up to what autovacuum waits for
    ("size of", "bytes", Bound(noise=1 * MIB, share=0.10)),
    ("open jobs", "", Bound(noise=50, share=0.10)),
    ("spooled deliveries", "", Bound()),
)

_VARIABLE = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{12,}|\d+|soak-\S+|(screen|guest)\S*")


def bound_of(name: str) -> tuple[str, Bound]:
    """(unit, bound) of a figure."""
    return next((unit, bound) for beginning, unit, bound in BOUNDS if name.startswith(beginning))


class Gauges:
    """Samples of all figures. One that is missing in a sample was 0 then."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        self.began = time.monotonic()
        self.samples: list[tuple[float, dict[str, float]]] = []

    def sample(self) -> dict[str, float]:
        """Look at everything once. Blocks for some tenths of a second."""
        at, found = time.monotonic() - self.began, dict[str, float]()
        for part in (self._processes(), self._postgres(), self._redis(), self._spool()):
            found.update(part)
        self.samples.append((at, found))
        return found

    def series(self) -> dict[str, Series]:
        """Each figure that was ever there."""
        names = {name for _, found in self.samples for name, value in found.items() if value}
        return {name: [(at, found.get(name, 0.0)) for at, found in self.samples] for name in names}

    def _processes(self) -> Iterator[tuple[str, float]]:
        for name, process in self.stand.watched.items():
            yield f"memory of {name}", process.memory_full_info().uss
            yield f"files of {name}", process.num_fds()
            yield f"threads of {name}", process.num_threads()
        postmaster = psutil.Process(self.stand.database.pid)
        total = 0
        for process in (postmaster, *postmaster.children(recursive=True)):
            try:
                total += process.memory_full_info().uss
            except psutil.NoSuchProcess:
                continue
        yield "memory of PostgreSQL", total

    def _postgres(self) -> Iterator[tuple[str, float]]:
        with closing(psycopg2.connect(self.stand.database.url)) as connection, connection.cursor() as cursor:
            cursor.execute(
                "select coalesce(state, 'none'), count(*) from pg_stat_activity"
                " where backend_type = 'client backend' and pid <> pg_backend_pid() group by 1"
            )
            states = dict(cursor.fetchall())
            yield "PostgreSQL connections", sum(states.values())
            yield "PostgreSQL connections idle in transaction", states.get("idle in transaction", 0)
            for table in PASSING:
                cursor.execute(f"select count(*) from {table}")
                yield f"rows of {table}", cursor.fetchone()[0]
            cursor.execute("select count(*) from outbox where state = 'open'")
            yield "open jobs", cursor.fetchone()[0]
            cursor.execute(
                "select relname, n_live_tup, n_dead_tup, pg_total_relation_size(relid) from pg_stat_user_tables"
            )
            for table, rows, dead, size in cursor.fetchall():
                if table in FEW:
                    yield f"rows of {table}", rows
                if table in PASSING or table in FEW:
                    yield f"dead rows of {table}", dead
                    yield f"size of {table}", size

    def _redis(self) -> Iterator[tuple[str, float]]:
        with closing(redis.Redis.from_url(self.stand.redis.url)) as client:
            info = client.info()
            yield "Redis connections", info["connected_clients"]
            names = list(client.scan_iter(count=1000))
            with client.pipeline(transaction=False) as pipe:
                for name in names:
                    if name.startswith(b"cache:"):
                        pipe.memory_usage(name)
                pages = [size for size in pipe.execute() if size]  # none: it has expired meanwhile
            yield "Redis memory beside cached pages", info["used_memory"] - sum(pages)
            yield "size of a cached page", sum(pages) / max(1, len(pages))
            with client.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.type(name)
                    pipe.ttl(name)
                answers = pipe.execute()
            kinds, ttls = answers[::2], answers[1::2]
            keys: Counter[str] = Counter(prefix(name) for name in names)
            endless = sum(ttl == -1 for ttl in ttls)
            yield "Redis keys without expiry", endless
            for name, count in keys.items():
                yield f"Redis keys {name}", count
            yield from self._elements(client, list(zip(names, kinds, strict=True)))

    def _elements(self, client: redis.Redis, found: list[tuple[bytes, bytes]]) -> Iterator[tuple[str, float]]:
        sizes: Counter[str] = Counter()
        ask = {b"list": "llen", b"set": "scard", b"zset": "zcard", b"hash": "hlen", b"stream": "xlen"}
        many = [(name, kind) for name, kind in found if kind in ask]
        with client.pipeline(transaction=False) as pipe:
            for name, kind in many:
                getattr(pipe, ask[kind])(name)
            for (name, _), size in zip(many, pipe.execute(), strict=True):
                sizes[prefix(name)] += size
        for name, size in sizes.items():
            yield f"Redis elements {name}", size

    def _spool(self) -> Iterator[tuple[str, float]]:
        yield "spooled deliveries", len(list((self.stand.folder / "spool").glob("*/*.delivery")))


def prefix(key: bytes) -> str:
    """What kind of key it is: its name without ids and numbers."""
    return _VARIABLE.sub("*", key.decode(errors="replace"))

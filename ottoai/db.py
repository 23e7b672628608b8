"""PostgreSQL: the pool, the tenant transaction and the named queries. The only importer of aiopg and psycopg2.

Three ways to run a query, all given to it as its first argument:

    await queries.calls.get_call(db.one(tenant_id), id=…)        # one statement, one round trip, one tenant
    async with db.transaction(tenant_id) as tx: …                # several statements, one tenant
    await queries.heads.heads_of(db.system(), tenants=[…])       # across tenants, as ottoai_system

aiopg's own pool is not used: it connects while it holds its lock, so that one hanging connect starves callers for
whom a free connection is waiting.
"""

import asyncio
import functools
import logging
import os
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import aiopg
import aiosql
import psycopg2
import psycopg2.errors
import psycopg2.extras
from aiosql.adapters.apyformat import AsyncPyFormatAdapter
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, make_dsn

from ottoai import trace
from ottoai.config import Config
from ottoai.errors import ConfigError, Conflict, InvalidInput, NotFound, OttoError, OutcomeUnknown, StoreUnavailable
from ottoai.metrics import Metrics

log = logging.getLogger(__name__)

Row = dict[str, Any]

CONNECT_TIMEOUT = 2.0  # A healthy server answers in milliseconds; waiting longer only hides that it is gone.
ACQUIRE_TIMEOUT = 2.0  # A request that waited this long for a connection is better told 503 and asked again.
STATEMENT_TIMEOUT = 5.0  # Server side, because giving up on the client leaves the statement running.
LOCK_TIMEOUT = 4.0  # Before the statement's, which aiopg reports as a cancellation and logs with a traceback.
SLOW = 0.2  # Seconds; see SLOW_QUERY_MS.
CLIENT_TIMEOUT = STATEMENT_TIMEOUT + 2.0  # Only for a server that no longer answers at all.

ROLES = ("ottoai_app", "ottoai_system")

# Queries that are prepared once per connection. Their planning costs more than their running: record_report takes
# 2.2 ms unprepared and 0.9 ms prepared. Others stay unprepared, because PostgreSQL plans those for the values at hand.
PREPARED = frozenset({
    "record_report", "rescue_to_follow", "advance_rescue", "text_to_send", "begin_text", "text_sent", "routed",
    "head", "heads", "noun_heads", })  # fmt: skip
# Lists are prepared too, filters being null, as long as nothing else than this is given: its values decide between no
# two plans.
PAGED = frozenset({"tenant_id", "page_size", "after_at", "after_id"})
LISTS = {
    "list_calls": PAGED,
    "list_leads": PAGED,
    "list_messages": PAGED | {"lead_id"},
    "list_missed_calls": PAGED,
    "list_tasks": PAGED,
    "list_timeline": PAGED | {"lead_id"},
}

GONE = "The database does not answer; try again shortly."

PARAMETER = re.compile(r"%\((\w+)\)s")
SNAPSHOT = (  # what is read in it is of one moment; whoever takes the rows may be slow
    "begin isolation level repeatable read read only;\nset local idle_in_transaction_session_timeout = '10min';\n"
)
SET_TENANT = "select set_config('app.tenant_id', %(tenant_id)s, true);\n"


def options(role: str) -> str:
    """How a connection of that role is set up, as libpq's `options`."""
    settings = {
        "role": role,
        "timezone": "UTC",
        "jit": "off",  # compiling takes longer than any query here
        "plan_cache_mode": "force_generic_plan",  # what is prepared is planned once, not five times before that
        "statement_timeout": f"{int(STATEMENT_TIMEOUT * 1000)}",
        "lock_timeout": f"{int(LOCK_TIMEOUT * 1000)}",
        "idle_in_transaction_session_timeout": "10000",
    }
    return " ".join(f"-c {name}={value}" for name, value in settings.items())


class Session(Protocol):
    """What a named query runs on."""

    async def run(self, name: str, sql: str, parameters: Mapping[str, Any]) -> Sequence[Row]:
        """Execute; the rows of the last statement. Raises StoreUnavailable, Conflict, NotFound, InvalidInput."""


class Connection(aiopg.Connection):
    """One of aiopg's that gives the loop a descriptor of its own to watch. libpq closes its descriptor when it loses a
    link, and whoever opens something next gets the number: what is then taken off the loop would be another connection,
    or the listening socket, which would never be heard again.
    """

    def __init__(self, dsn: str) -> None:
        # hstore and uuid support would each cost round trips or conversions that nothing here needs.
        super().__init__(dsn, CLIENT_TIMEOUT, enable_hstore=False, enable_uuid=False)
        theirs = self.raw.fileno()
        self._loop.remove_reader(theirs)
        self._fileno: int | None = os.dup(theirs)
        self._loop.add_reader(self._fileno, self._ready, self._weakref)

    def _close(self) -> None:
        super()._close()
        if self._fileno is not None:
            os.close(self._fileno)
            self._fileno = None


class Pool:
    """Connections of one role. Free ones are taken first; new ones are opened outside any lock."""

    def __init__(self, dsn: str, role: str, size: int, metrics: Metrics, slow: float = SLOW) -> None:
        self.role = role
        self.size = size
        self.slow = slow  # seconds from which on a query is told of
        self.in_use = 0
        self.metrics = metrics
        self._dsn = make_dsn(
            dsn,
            options=options(role),
            application_name=role,
            keepalives_idle=10,  # with the next, a peer that vanished is noticed in seconds, not hours
            tcp_user_timeout=5000,
        )
        self._free: deque[aiopg.Connection] = deque()
        self._prepared: WeakKeyDictionary[aiopg.Connection, set[str]] = WeakKeyDictionary()
        self._slots = asyncio.Semaphore(size)

    @property
    def idle(self) -> int:
        """Connections that are open and unused."""
        return len(self._free)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[aiopg.Connection]:
        """Borrow a connection. Raises StoreUnavailable when none can be had in time."""
        asked = time.perf_counter()
        try:
            async with asyncio.timeout(ACQUIRE_TIMEOUT):
                await self._slots.acquire()
        except TimeoutError:
            raise StoreUnavailable("All database connections are busy; try again shortly.") from None
        self.in_use += 1
        connection: aiopg.Connection | None = None
        try:
            connection = self._take() or await self._connect()
            self.metrics.db_pool_wait_seconds.observe(time.perf_counter() - asked)
            yield connection
        finally:
            self.in_use -= 1
            self._slots.release()
            if connection is not None:
                self._give_back(connection)

    async def warm(self, **first: str) -> None:
        """Open all connections there may be, and prepare and plan on each the queries `first` (SQL by name), so that
        the first requests need not: under load they waited 100 ms for that. Raises StoreUnavailable.
        """
        async with AsyncExitStack() as held:
            for _ in range(self.size):
                connection = await held.enter_async_context(self.connection())
                for name, sql in first.items():
                    if name in self._prepared.get(connection, ()):
                        continue  # a loop of the process was there sooner
                    _, statement, parameters = _preparable(sql, None)
                    plan = f"explain execute {name}({', '.join(['null'] * len(parameters))})"
                    await _execute(self, connection, "warm", f"prepare {name} as {statement};\n{plan}", {})
                    self.remember(connection, name)

    def _take(self) -> aiopg.Connection | None:
        while self._free:
            connection = self._free.pop()
            if not connection.closed:
                return connection
        return None

    def _give_back(self, connection: aiopg.Connection) -> None:
        # Anything but idle means an unfinished or failed transaction: such a connection is not passed on.
        if not connection.closed and connection.raw.get_transaction_status() == TRANSACTION_STATUS_IDLE:
            self._free.append(connection)
        else:
            connection.close()

    async def _connect(self) -> aiopg.Connection:
        try:
            connection = Connection(self._dsn)
            async with asyncio.timeout(CONNECT_TIMEOUT):
                return await connection
        except (psycopg2.Error, OSError, RuntimeError) as error:
            raise StoreUnavailable(GONE) from error

    def prepared(self, connection: aiopg.Connection, name: str, sql: str, given: frozenset[str] | None) -> str:
        """The query as an EXECUTE, with a PREPARE in front the first time: both go in one round trip. What is not
        `given` is null for good.
        """
        before, statement, parameters = _preparable(sql, given)
        values = ", ".join(f"%({parameter})s" for parameter in parameters)
        prepare = "" if name in self._prepared.get(connection, ()) else f"prepare {name} as {statement};\n"
        return f"{before}{prepare}execute {name}({values})"

    def remember(self, connection: aiopg.Connection, name: str) -> None:
        """The query was prepared on this connection, and ran."""
        self._prepared.setdefault(connection, set()).add(name)

    async def close(self) -> None:
        """Close the connections that are free; borrowed ones close when they are given back."""
        while self._free:
            self._free.pop().close()
        await asyncio.sleep(0)


class OneStatement:
    """Runs each query in a transaction of its own: the tenant is set in the same round trip."""

    def __init__(self, pool: Pool, tenant_id: str | None) -> None:
        self._pool = pool
        self._tenant_id = tenant_id

    async def run(self, name: str, sql: str, parameters: Mapping[str, Any]) -> Sequence[Row]:
        """See Session. Statements sent together are one implicit transaction, committed with the last."""
        async with self._pool.connection() as connection:
            if self._tenant_id is None:
                return await _execute(self._pool, connection, name, sql, parameters)
            bound = {**parameters, "tenant_id": self._tenant_id}
            return await _execute(self._pool, connection, name, sql, bound, before=SET_TENANT)


class Transaction:
    """Several queries of one tenant that commit together. BEGIN and the tenant travel with the first."""

    def __init__(self, pool: Pool, connection: aiopg.Connection, tenant_id: str, *, begin: str = "begin;\n") -> None:
        self._pool = pool
        self._connection = connection
        self._tenant_id = tenant_id
        self._begin = begin
        self._begun = False

    async def run(self, name: str, sql: str, parameters: Mapping[str, Any]) -> Sequence[Row]:
        """See Session."""
        prefix = "" if self._begun else self._begin + SET_TENANT
        self._begun = True
        bound = {**parameters, "tenant_id": self._tenant_id}
        return await _execute(self._pool, self._connection, name, sql, bound, before=prefix)

    async def finish(self, word: str) -> None:
        """Commit or roll back, if anything was begun."""
        if self._begun and not self._connection.closed:
            await _execute(self._pool, self._connection, word, word, {})


class Database:
    """Both pools: `ottoai_app` for one tenant at a time, `ottoai_system` for what crosses tenants."""

    def __init__(self, app: Pool, system: Pool) -> None:
        self.pools = (app, system)
        self._app, self._system = self.pools

    async def warm(self) -> None:
        """Be ready for a burst of webhooks. Raises StoreUnavailable."""
        await self._app.warm(record_report=queries().calls.record_report.sql)
        await self._system.warm(routed=queries().tenants.routed.sql, heads=queries().events.heads.sql)

    def one(self, tenant_id: str) -> Session:
        """For a single statement about one tenant."""
        return OneStatement(self._app, tenant_id)

    def system(self) -> Session:
        """For a single statement across tenants."""
        return OneStatement(self._system, None)

    @asynccontextmanager
    async def transaction(self, tenant_id: str, *, begin: str = "begin;\n") -> AsyncIterator[Session]:
        """For several statements about one tenant; commits at the end, rolls back on an exception. `begin=SNAPSHOT`
        reads, and all of one moment.
        """
        async with self._app.connection() as connection:
            tx = Transaction(self._app, connection, tenant_id, begin=begin)
            try:
                yield tx
            except BaseException:
                with suppress(StoreUnavailable):
                    await tx.finish("rollback")
                raise
            await tx.finish("commit")


@asynccontextmanager
async def open_pool(config: Config, metrics: Metrics, role: str = "ottoai_app") -> AsyncIterator[Database]:
    """The database of one process. Does not connect yet: a process starts without its database too. `role` is who acts
    for a tenant; any other than ottoai_app is for the command line.
    """
    slow = config.slow_query_ms / 1000
    app = Pool(config.database_url, role, config.db_pool_size, metrics, slow)
    # The system role does little, rarely: two connections keep a slow page from delaying heads and routing.
    system = Pool(config.database_url, "ottoai_system", max(2, config.db_pool_size // 3), metrics, slow)
    database = Database(app, system)
    try:
        yield database
    finally:
        for pool in database.pools:
            await pool.close()


async def refuse_privilege(database: Database) -> None:
    """Raise ConfigError when a pool acts as anything more than its role."""
    for pool in database.pools:
        async with pool.connection() as connection:
            rows = await _execute(pool, connection, "who_am_i", queries().roles.who_am_i.sql, {})
        who = rows[0]
        if who["name"] != pool.role or who["superuser"] or who["bypasses"]:
            raise ConfigError([f"DATABASE_URL leads to role {who['name']}, which is more than {pool.role} may be"])


def _shape(name: str, parameters: Mapping[str, Any]) -> tuple[str, frozenset[str] | None] | None:
    """Under which name a query is prepared and which parameters it then has (None: all); None when it is not."""
    if name in PREPARED:
        return name, None
    usual = LISTS.get(name)
    if usual is None:
        return None
    given = frozenset(each for each, value in parameters.items() if value is not None)
    return (name, given) if given <= usual else None


@functools.cache
def _preparable(sql: str, given: frozenset[str] | None) -> tuple[str, str, tuple[str, ...]]:
    """(the statements before the last one, the last one with $n for its parameters, their names in that order)."""
    before, _, last = sql.strip().rstrip(";").rpartition(";\n")
    names = [each for each in dict.fromkeys(PARAMETER.findall(last)) if given is None or each in given]
    numbered = PARAMETER.sub(lambda match: f"${names.index(match[1]) + 1}" if match[1] in names else "null", last)
    return before + ";\n" if before else "", numbered, tuple(names)


async def _execute(
    pool: Pool, connection: aiopg.Connection, name: str, sql: str, parameters: Mapping[str, Any], *, before: str = ""
) -> Sequence[Row]:
    shape = _shape(name, parameters)
    if shape:
        sql = pool.prepared(connection, shape[0], sql, shape[1])
    started = time.perf_counter()
    task = asyncio.current_task()
    cancelling = task.cancelling() if task else 0
    try:
        async with connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
            await cursor.execute(before + sql, parameters)
            rows: Sequence[Row] = await cursor.fetchall() if cursor.description else []
        if shape:
            pool.remember(connection, shape[0])
        return rows
    except asyncio.CancelledError:
        # aiopg reports the server's statement timeout as a cancellation. Nobody cancelled this task? Then it was that.
        connection.close()
        if task is None or task.cancelling() == cancelling:
            raise OutcomeUnknown("The database took too long; try again shortly.") from None
        raise
    except Exception as error:
        translated = _translated(error, connection)
        connection.close()  # rare; and whatever was being done with it is in doubt
        if translated is None:
            raise
        raise translated from error
    finally:
        _tell(pool, name, time.perf_counter() - started)


def _tell(pool: Pool, name: str, seconds: float) -> None:
    """Measure a query that ended, as its caller saw it. Its parameters are a tenant's, and told nowhere."""
    pool.metrics.db_query_duration_seconds.observe(seconds, query=name)
    trace.took(f"db {name}", seconds, kind=trace.SpanKind.CLIENT, attributes={"db.system.name": "postgresql"})
    if seconds > pool.slow:
        pool.metrics.db_slow_queries_total.inc()
        log.warning("Slow query", extra={"query": name, "duration_ms": round(seconds * 1000, 1), "role": pool.role})


def _translated(error: Exception, connection: aiopg.Connection) -> OttoError | None:
    """What an error of the driver means to callers; None for what is a mistake of ours."""
    match error:
        case psycopg2.errors.UniqueViolation():
            return Conflict(f"This exists already ({error.diag.constraint_name}).")
        case psycopg2.errors.ForeignKeyViolation():
            return NotFound()
        case psycopg2.errors.CheckViolation():
            return InvalidInput(f"A value is out of bounds ({error.diag.constraint_name}).")
        case psycopg2.errors.LockNotAvailable() | psycopg2.errors.DeadlockDetected():
            return StoreUnavailable("The database took too long; try again shortly.")
        case psycopg2.DataError() | ValueError():
            return InvalidInput(f"A value cannot be stored: {str(error).splitlines()[0]}.")
        case psycopg2.errors.UndefinedTable() | psycopg2.errors.UndefinedColumn() | psycopg2.errors.UndefinedFunction():
            return StoreUnavailable("The database's schema is not the one this needs: run `python -m ottoai migrate`.")
        case psycopg2.errors.ProgramLimitExceeded():
            return InvalidInput("A value is too large to be stored.")
        case psycopg2.OperationalError() | psycopg2.InterfaceError() | OSError() | RuntimeError():
            return OutcomeUnknown(GONE)
        case psycopg2.DatabaseError() if connection.closed or error.pgcode is None:
            # libpq reports a server that vanished in the middle of a statement without any SQLSTATE.
            return OutcomeUnknown(GONE)
    return None


class _Adapter(AsyncPyFormatAdapter):
    """Runs aiosql's queries on a Session: rows are dicts, a missing row is None."""

    is_aio_driver = True

    async def select(self, on: Session, name: str, sql: str, parameters: Any, _record: Any = None) -> Any:
        for row in await on.run(name, sql, parameters):
            yield row

    async def select_one(self, on: Session, name: str, sql: str, parameters: Any, _record: Any = None) -> Row | None:
        rows = await on.run(name, sql, parameters)
        return rows[0] if rows else None

    async def select_value(self, on: Session, name: str, sql: str, parameters: Any) -> Any:
        rows = await on.run(name, sql, parameters)
        return next(iter(rows[0].values())) if rows else None

    async def insert_update_delete(self, on: Session, name: str, sql: str, parameters: Any) -> None:
        await on.run(name, sql, parameters)


class Queries:
    """The named queries of sql/, one group a file: `queries().calls.get_call(session, id=…)`."""

    def __init__(self, folder: Path) -> None:
        for file in sorted(folder.glob("*.sql")):
            loaded = aiosql.from_path(file, _Adapter, mandatory_parameters=False, attribute=None)
            setattr(self, file.stem, loaded)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"there is no sql/{name}.sql")


def sql_folder() -> Path:
    """Where the SQL files are: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "sql"
    return inside if inside.is_dir() else package.parent / "sql"


def migrations() -> list[str]:
    """Names of all migrations, in order."""
    return sorted(path.stem for path in (sql_folder() / "migrations").glob("*.sql"))


@functools.cache
def queries() -> Queries:
    """All named queries, read once."""
    return Queries(sql_folder())

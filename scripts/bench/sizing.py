"""From measured unit costs to numbers of machines: formulas, and what they give for 1 to 10⁴ tenants. Arithmetic, not
measurement: docs/SCALING.md says which is which, and what stops scaling first.
"""

from collections.abc import Callable
from math import ceil
from typing import Final, NamedTuple

from scripts.bench.growth.axis import Axis
from scripts.bench.kept import Kept
from scripts.bench.measure import Bound, shown

# What a tenant is taken to do in its busiest minute. Whoever knows better puts that in.
CALLS_A_DAY: Final = 100
REPORTS: Final = 3  # webhooks of a call: it rings, where it goes, how it ended
BUSIEST: Final = 8  # times the day's average
MISSED: Final = 0.3  # share of the calls, two jobs each
EVENTS: Final = 3  # of a webhook: as many as the three of a missed call have on average
SOCKETS: Final = 100  # of a tenant
READS: Final = 1 / 60  # lists that each who is connected asks for, a second
STEPS: Final = (1, 10, 100, 1_000, 10_000)
# How full things may be.
FULL: Final = 0.5  # of a core, so that one process in two may die
CROWDED: Final = 5_000  # sockets of a process, so that a deploy moves no more at once
DAY: Final = 86_400


class Unit(NamedTuple):
    """A measured cost: where it comes from stands in the table."""

    name: str
    value: float
    unit: str
    source: str


class Missing(Exception):
    """A figure is needed that was not published."""


def units(kept: Kept) -> dict[str, Unit]:
    """Every unit cost, by a short name. Raises Missing."""
    try:
        return {key: Unit(name, find(kept), unit, source) for key, (name, find, unit, source) in FOUND.items()}
    except (KeyError, StopIteration) as problem:
        raise Missing(str(problem)) from problem


def _detail(result: str, name: str) -> Callable[[Kept], float]:
    return lambda kept: float(kept.results[result].details[name])


def _bound(result: str, name: str) -> Callable[[Kept], float]:
    def find(kept: Kept) -> float:
        found: Bound = next(each for each in kept.results[result].bounds if each.name == name)
        return found.value

    return find


def _last(axis: str, name: str, step: int = -1) -> Callable[[Kept], float]:
    return lambda kept: _series(kept.growth[axis], name)[step]


def _series(axis: Axis, name: str) -> list[float]:
    return next(each.values for each in axis.series if each.name == name)


def _per_tenant(kept: Kept) -> float:
    axis = kept.growth["growth-tenants"]
    return _series(axis, "the look at all heads")[-1] / axis.steps[-1] * 1000


def _per_process(name: str) -> Callable[[Kept], float]:
    """Of what all processes of the last step do, one's part."""
    return lambda kept: _last("growth-processes", name)(kept) / kept.growth["growth-processes"].steps[-1]


def _hint(kept: Kept) -> float:
    """What a further process costs that hears of a webhook that another took in, and serves its share of sockets."""
    costs = _series(kept.growth["growth-processes"], "api processes, per webhook and its deliveries")
    return max(0.0, (costs[-1] - costs[0]) / (len(costs) - 1))


FOUND: Final[dict[str, tuple[str, Callable[[Kept], float], str, str]]] = {
    "webhook": ("a webhook, in the api process", _detail("webhooks", "cpu_ms_each"), "ms CPU", "webhooks"),
    "hint": ("hearing of it in another api process", _hint, "ms CPU", "growth-processes"),
    "delivery": (
        "a delivery while events are rare", _last("growth-connections", "processor per delivery"), "µs CPU",
        "growth-connections",
    ),
    "dense": ("a delivery at 400 events/s", _bound("broadcast 400/s", "processor per delivery"), "µs CPU", "broadcast"),
    "read": ("a list, of which most are cached", _detail("reads", "cpu_ms_each"), "ms CPU", "reads"),
    "job": ("a job, in the worker", _detail("jobs", "worker_cpu_ms_each"), "ms CPU", "jobs"),
    "idle": (
        "10,000 idle sockets", _bound("idle", "processor"), "% of a core", "idle",
    ),
    "socket": ("a socket", _last("growth-connections", "memory per socket"), "KiB", "growth-connections"),
    "process": ("an api process without sockets", _detail("idle", "empty_mib"), "MiB", "idle"),
    "head": ("the look at a tenant's head, once a second", _per_tenant, "µs of a connection", "growth-tenants"),
    "commands": ("Redis commands of a webhook", _last("growth-processes", "Redis commands per webhook", 0), "",
                 "growth-processes"),
    "transactions": ("transactions of a webhook", _last("growth-processes", "transactions per webhook", 0), "",
                     "growth-processes"),
    "wal": ("WAL of a webhook", _last("growth-processes", "WAL per webhook", 0), "kB", "growth-processes"),
    "idle_commands": ("Redis commands of an idle api process",
                      _per_process("Redis commands a second while idle"), "/s", "growth-processes"),
    "idle_transactions": ("transactions of an idle api process",
                          _per_process("transactions a second while idle"), "/s", "growth-processes"),
    "row": ("a call with its indexes", _last("growth-calls", "table and indexes per call"), "bytes", "growth-calls"),
    "pgbench": ("webhook transactions that PostgreSQL alone did here", _detail("webhooks", "pgbench_per_second"),
                "/s", "webhooks"),
}  # fmt: skip


def unit_table(kept: Kept) -> str:
    """Markdown."""
    lines = [f"| {each.name} | {shown(each.value)} {each.unit} | `{each.source}` |" for each in units(kept).values()]
    return "\n".join(["| Unit | Cost, measured | By |", "|---|---:|---|", *lines]) + "\n"


def sized(kept: Kept, tenants: int) -> dict[str, float]:
    """What so many tenants need in their busiest minute, by the formulas."""
    cost = {key: unit.value for key, unit in units(kept).items()}
    sockets = tenants * SOCKETS
    webhooks = tenants * CALLS_A_DAY * REPORTS * BUSIEST / DAY
    deliveries, reads = webhooks * EVENTS * SOCKETS, sockets * READS
    jobs = webhooks / REPORTS * MISSED * 2
    work = webhooks * cost["webhook"] / 1e3 + deliveries * cost["delivery"] / 1e6 + reads * cost["read"] / 1e3
    work += sockets / 10_000 * cost["idle"] / 100
    processes = max(2, ceil(work / FULL), ceil(sockets / CROWDED))
    # With the load balancer's choice at random, a process of 5,000 sockets has listeners of nearly every tenant.
    listened = min(tenants, sockets / processes)
    return {
        "sockets": sockets,
        "webhooks/s": webhooks,
        "deliveries/s": deliveries,
        "lists/s": reads,
        "jobs/s": jobs,
        "cores for the api's own work": work,
        "api processes": processes,
        "memory of each, MiB": cost["process"] + sockets / processes * cost["socket"] / 1024,
        "workers": max(2, ceil(jobs * cost["job"] / 1e3 / FULL)),
        "transactions/s": webhooks * cost["transactions"] + jobs * 2 + processes * cost["idle_transactions"],
        "WAL, MB/s": webhooks * cost["wal"] / 1e3,
        "calls a year, GB": tenants * CALLS_A_DAY * 365 * cost["row"] / 1e9,
        "connections to PostgreSQL": processes * 13,
        "looks at heads, connections busy": processes * listened * cost["head"] / 1e6,
        "Redis commands/s": webhooks * cost["commands"] + processes * cost["idle_commands"] + reads * 2,
        "hints that Redis hands out/s, all to all": webhooks * processes,
        "cores for hearing hints, all to all": webhooks * (processes - 1) * cost["hint"] / 1e3,
    }


def table(kept: Kept) -> str:
    """Markdown: a column for each number of tenants."""
    columns = [sized(kept, tenants) for tenants in STEPS]
    lines = [f"| {name} | " + " | ".join(shown(column[name]) for column in columns) + " |" for name in columns[0]]
    head = "| tenants | " + " | ".join(f"{step:,}" for step in STEPS) + " |"
    return "\n".join([head, "|---|" + "---:|" * len(STEPS), *lines]) + "\n"


def assumptions() -> str:
    """What a tenant is taken to do, in words."""
    return (
        f"A tenant is taken to have {CALLS_A_DAY} calls a day of {REPORTS} webhooks each, {BUSIEST} times as many in "
        f"its busiest minute as on average, {MISSED:.0%} of them missed (two jobs each), {EVENTS} events a webhook, "
        f"{SOCKETS} connected screens that ask for {READS * 60:.0f} list a minute each. A process may fill "
        f"{FULL:.0%} of a core and hold {CROWDED:,} sockets; two of each kind are the least.\n"
    )

"""The indicators: what is measured, from where on it is not well, and what to do then. This table is the only one.

From it come the verdicts of /ops, /ops.txt and /ops.json, the alerts that this software sends, the rules and the
dashboard in monitoring/, the snapshot script and the table in docs/OPERATIONS.md. How a number is computed: `measures`.
Both stand below the configuration, which reads other bounds and refuses those of what is not in the table.
"""

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from ottoai.measures import (
    DAY,
    HOUR,
    MINUTE,
    Age,
    Burn,
    BusinessHours,
    Condition,
    Enough,
    Fullness,
    Increase,
    Level,
    Measure,
    Not,
    Quantile,
    Ratio,
    SeenBefore,
    Select,
    Unusual,
)

Severity = Literal["info", "warning", "critical"]
Verdict = Literal["ok", "info", "warning", "critical", "none"]
Unit = Literal["seconds", "share", "count", "bytes", "state", "times"]
Op = Literal[">", ">=", "<", "<="]

VERDICTS: Final[tuple[Verdict, ...]] = ("none", "ok", "info", "warning", "critical")  # from nothing to worst
OPS: Final[dict[Op, Callable[[float, float], bool]]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le,
}  # fmt: skip
OPPOSITE: Final[dict[Op, str]] = {">": "≤", ">=": "<", "<": "≥", "<=": ">"}


@dataclass(frozen=True, slots=True)
class Bound:
    """From where on it is not well: `value op at`. `seconds`: how long, until an alert fires."""

    level: Severity
    op: Op
    at: float
    seconds: float = MINUTE

    def passed(self, value: float) -> bool:
        """Whether a value is on the wrong side."""
        return OPS[self.op](value, self.at)


@dataclass(frozen=True, slots=True)
class Indicator:
    """One of them. `conditions`: when one is not met, the value is shown and not judged."""

    id: str
    group: str
    title: str
    unit: Unit
    measure: Measure
    bounds: tuple[Bound, ...]
    action: str
    conditions: tuple[Condition, ...] = ()

    def verdict(self, value: float | None) -> Verdict:
        """What a value means, conditions left aside. No data is no verdict."""
        if value is None or math.isnan(value):
            return "none"
        passed = {bound.level for bound in self.bounds if bound.passed(value)}
        return next((level for level in reversed(VERDICTS) if level in passed), "ok")

    @property
    def healthy(self) -> str:
        """What is well, in words."""
        if not self.bounds:
            return "–"
        first = min(self.bounds, key=lambda bound: VERDICTS.index(bound.level))
        if self.unit == "state":
            return "yes"
        if first.op == ">" and first.at == 0:
            return "0"
        if first.op == "<" and first.at == 1 and self.unit == "share":
            return "100 %"
        return f"{OPPOSITE[first.op]} {shown(self.unit, first.at)}"

    def alert(self, bound: Bound) -> str:
        """The name of a bound's alert."""
        return f"{self.id}.{bound.level}"

    def prometheus_alert(self, bound: Bound) -> str:
        """The same name as Prometheus's rules spell it: OttoaiHttpP95Critical."""
        return "Ottoai" + "".join(word.capitalize() for word in re.split(r"[_.]", self.alert(bound)))


def shown(unit: Unit, value: float | None) -> str:
    """A value with its unit, short."""
    if value is None or math.isnan(value):
        return "no data"
    match unit:
        case "state":
            return "yes" if value >= 1 else "no"
        case "share":
            return f"{value * 100:.3g} %" if value < 0.9995 else f"{value * 100:.4g} %"
        case "bytes":
            return f"{value / (1 << 20):,.4g} MB"
        case "times":
            return f"{value:,.3g}\N{MULTIPLICATION SIGN}"
        case "count":
            return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:,.3g} s" if value < 1000 else f"{value:,.0f} s"


def warning(op: Op, at: float, seconds: float = 5 * MINUTE) -> Bound:
    """A bound past which staff should look during the day."""
    return Bound("warning", op, at, seconds)


def critical(op: Op, at: float, seconds: float = MINUTE) -> Bound:
    """A bound past which somebody is woken."""
    return Bound("critical", op, at, seconds)


def info(op: Op, at: float, seconds: float = MINUTE) -> Bound:
    """A bound past which it is worth knowing."""
    return Bound("info", op, at, seconds)


def _of(metric: str, **where: str | tuple[str, ...] | Not) -> Select:
    return Select(metric, where)


# What machines ask every few seconds would flatter the figures; what waits on purpose would spoil them.
PROBES: Final = ("/health", "/ready", "/metrics", "/internal/worker/heartbeat", "/ws", "/api/events",
                 "/api/events/stream", "/ops", "/ops.txt", "/ops.json")  # fmt: skip
ASKED_BY_PEOPLE: Final = Not(PROBES)
FAILED: Final = ("500", "501", "502", "503", "504")

REQUESTS: Final = _of("http_requests_total", route=ASKED_BY_PEOPLE)
REQUESTS_5XX: Final = _of("http_requests_total", route=ASKED_BY_PEOPLE, status=FAILED)
LATENCY: Final = _of("http_request_duration_seconds", route=ASKED_BY_PEOPLE)
SENT: Final = _of("ws_messages_sent_total")
DROPPED: Final = _of("ws_messages_dropped_total")
NO_PROBE: Final = Not(("probe",))  # which has indicators of its own, and would flatter those of the others
ENDED: Final = _of("worker_task_total", task=NO_PROBE, status=("success", "failure"))
TASK_FAILED: Final = _of("worker_task_total", task=NO_PROBE, status="failure")
DELIVERIES: Final = _of("webhook_requests_total", outcome=Not(("unknown",)))
REJECTED: Final = _of("webhook_requests_total", outcome="rejected")
CACHE: Final = _of("cache_requests_total", result=("hit", "miss"))
FAST: Final = _of("http_request_duration_seconds_bucket", route=ASKED_BY_PEOPLE, le="0.5")
ANSWERED: Final = _of("http_request_duration_seconds_count", route=ASKED_BY_PEOPLE)
IN_TIME: Final = _of("event_e2e_latency_seconds_bucket", le="1.0")
DELIVERED: Final = _of("event_e2e_latency_seconds_count")

# Shorter than for a store: a worker or beat that dies counts as alive for tally.ALIVE_SECONDS first, and is to be told
# of within a minute. One that is replaced is away for less: it is heard until it ends, and again within seconds.
UNHEARD: Final = 15.0
_READY_ADVICE: Final = "The api log says `Check failed` with the cause"

INDICATORS: Final[tuple[Indicator, ...]] = (
    # Components
    Indicator(
        "database", "Components", "PostgreSQL reachable", "state",
        Level(_of("ready", component="database"), "min"), (critical("<", 1, 30),),
        f"Is PostgreSQL up, and DATABASE_URL right? {_READY_ADVICE}. Webhooks wait on disk meanwhile.",
    ),
    Indicator(
        "redis", "Components", "Redis reachable", "state",
        Level(_of("ready", component="redis"), "min"), (critical("<", 1, 30),),
        f"Is Redis up, and REDIS_URL right? {_READY_ADVICE}. Events come from the log, up to 2 s late.",
    ),
    Indicator(
        "migrations", "Components", "Migrations applied", "state",
        Level(_of("ready", component="migrations"), "min"), (critical("<", 1, 30),),
        "Run: python -m ottoai migrate",
    ),
    Indicator(
        "ready", "Components", "/ready answers 200", "state",
        Level(_of("ready", component=("database", "redis", "migrations")), "min"), (critical("<", 1, MINUTE),),
        "curl $BASE/ready names the component that fails.",
    ),
    Indicator(
        "worker", "Components", "A worker is alive", "state",
        Level(_of("ready", component="worker"), "max"), (critical("<", 1, UNHEARD),),
        "Start one: python -m jobs worker (fly scale count worker=2); see the log of the one that ended. "
        "Texts wait until then.",
    ),
    Indicator(
        "beat", "Components", "Beat is alive", "state",
        Level(_of("ready", component="beat"), "max"), (critical("<", 1, UNHEARD),),
        "Start one: python -m jobs beat (fly scale count beat=1). Jobs run without it; jobs of later, lost ones and "
        "the schedule wait.",
    ),
    Indicator(
        "beat_tick", "Components", "Beat, last tick", "seconds",
        Age(_of("beat_last_tick_timestamp_seconds")), (warning(">", 30, 0), critical(">", 60, 0)),
        "Beat hangs or is gone: restart it; see its log.",
    ),
    Indicator(
        "probe_event", "Components", "Self-probe, commit to socket, P95", "seconds",
        Quantile(0.95, _of("probe_event_seconds"), 5 * MINUTE),
        (warning(">", 1, 2 * MINUTE), critical(">", 2, 2 * MINUTE)),
        "Events are late for everybody: look at Redis, then at event_loop_lag and db_query.",
    ),
    Indicator(
        "probe_job", "Components", "Self-probe, staged to done, P95", "seconds",
        Quantile(0.95, _of("probe_job_seconds"), 5 * MINUTE),
        (warning(">", 5, 2 * MINUTE), critical(">", 30, 2 * MINUTE)),
        "Jobs are late for everybody: are workers alive and the urgent queue short?",
    ),
    Indicator(
        "probe_failed", "Components", "Self-probes that did not come through", "count",
        Increase(_of("probe_failures_total"), 5 * MINUTE), (warning(">", 0, 0), critical(">=", 4, 0)),
        "The log says `Self-probe failed` and where: event (database, log, Redis, hub) or job (queue, worker).",
    ),
    # Requests
    Indicator(
        "http_p95", "Requests", "Response time, P95", "seconds",
        Quantile(0.95, LATENCY, 5 * MINUTE, least=20), (warning(">", 0.5, 10 * MINUTE), critical(">", 1, 5 * MINUTE)),
        "Where does the time go: db_query, db_wait, redis_ping, loop_lag? Log: `Slow query`. More api processes: "
        "fly scale count api=3",
    ),
    Indicator(
        "http_errors", "Requests", "Answered with 5xx", "share",
        Ratio((REQUESTS_5XX,), (REQUESTS,), 5 * MINUTE, least=20),
        (warning(">", 0.001), critical(">", 0.05, 2 * MINUTE)),
        "Log: `Request failed`, with route and cause.",
    ),
    Indicator(
        "http_budget_fast", "Requests", "Error budget of requests (99.9 %), 1 h", "times",
        Burn((REQUESTS_5XX,), (REQUESTS,), 0.001, 5 * MINUTE, HOUR), (critical(">", 14.4, 2 * MINUTE),),
        "In two days a month's budget is gone. Log: `Request failed`; was something deployed?",
    ),
    Indicator(
        "http_budget_slow", "Requests", "Error budget of requests (99.9 %), 6 h", "times",
        Burn((REQUESTS_5XX,), (REQUESTS,), 0.001, 30 * MINUTE, 6 * HOUR), (warning(">", 6, 15 * MINUTE),),
        "In five days a month's budget is gone. Log: `Request failed`.",
    ),
    Indicator(
        "latency_budget", "Requests", "Latency budget (99 % under 500 ms), 1 h", "times",
        Burn((FAST,), (ANSWERED,), 0.01, 5 * MINUTE, HOUR, rest=True),
        (warning(">", 14.4, 2 * MINUTE),),
        "As for the response time.",
    ),
    Indicator(
        "foreign_ids", "Requests", "Foreign ids asked for, 1 h", "count",
        Increase(_of("cross_tenant_access_attempts_total"), HOUR), (critical(">", 0, 0),),
        "They were refused. Log: `Unauthorized access: tenant_id mismatch` says who; several are somebody who tries: "
        "python -m ottoai tenant revoke",
    ),
    Indicator(
        "rate_limited", "Requests", "Requests over a limit, 1 h", "count",
        Increase(_of("rate_limit_hits_total"), HOUR), (warning(">", 100, 0),),
        "Log: `Rate limit hit` says whose. One client in a loop, or a limit that has become too small?",
    ),
    Indicator(
        "requests", "Requests", "Requests, 1 h", "count", Increase(REQUESTS, HOUR), (), "For comparison.",
    ),
    Indicator(
        "unusual_traffic", "Requests", "Requests by the median of this hour", "times",
        Unusual("requests", Increase(REQUESTS, HOUR)), (info(">", 3, 5 * MINUTE),),
        "A campaign of a tenant's, or somebody who tries: which routes, which addresses?",
        (Enough(Increase(REQUESTS, HOUR), 100),),
    ),
    Indicator(
        "loop_lag", "Requests", "Event loop late, P95", "seconds",
        Quantile(0.95, Select("event_loop_lag_seconds", kind="api"), 5 * MINUTE, least=5),
        (warning(">", 0.1), critical(">", 0.5, 5 * MINUTE)),
        "The api's core is full: more processes (fly scale count api=3). If it is not: a fault of ours, profile it.",
    ),
    # Real time
    Indicator(
        "event_p95", "Real time", "Event to socket, P95", "seconds",
        Quantile(0.95, _of("event_e2e_latency_seconds"), 5 * MINUTE),
        (warning(">", 1, 2 * MINUTE), critical(">", 2, 5 * MINUTE)),
        "Is Redis up? events_repaired_total says how many came from the log instead.",
    ),
    Indicator(
        "event_budget", "Real time", "Event budget (99.9 % within 1 s), 1 h", "times",
        Burn((IN_TIME,), (DELIVERED,), 0.001, 5 * MINUTE, HOUR, rest=True), (critical(">", 14.4, 2 * MINUTE),),
        "As for event to socket.",
    ),
    Indicator(
        "ws_connections", "Real time", "Open connections", "count",
        Level(_of("ws_connections"), "sum"), (critical("<", 1, 5 * MINUTE),),
        "Why are clients refused: ws_auth_failures, GET /ws, PUBLIC addresses, certificates? "
        "`make smoke:realtime` tries it.",
        (BusinessHours(), SeenBefore("ws_connections", 4 * DAY)),
    ),
    Indicator(
        "ws_auth_failures", "Real time", "Connections refused for token or origin", "share",
        Ratio(
            (_of("ws_auth_failures_total"),),
            (_of("ws_auth_failures_total"), _of("ws_connections_opened_total")), 10 * MINUTE, least=10,
        ),
        (warning(">", 0.2), critical(">", 0.8)),
        "reason of ws_auth_failures_total: `invalid` – JWT_SECRET, JWT_JWKS_URL, JWT_ISSUER; `origin` – "
        "ALLOWED_ORIGINS; `expired` – clients that do not refresh. python -m ottoai token inspect -",
    ),
    Indicator(
        "ws_dropped", "Real time", "Messages dropped, 10 min", "count",
        Increase(DROPPED, 10 * MINUTE), (info(">", 0, 0),),
        "reason: `transient` – not kept for slow clients; `unrepairable` – no longer in the log.",
    ),
    Indicator(
        "ws_drop_rate", "Real time", "Messages dropped, share", "share",
        Ratio((DROPPED,), (DROPPED, SENT), 10 * MINUTE, least=20), (warning(">", 0.01),),
        "As above; are clients slow (ws_slow), or is the api's core full (loop_lag)?",
    ),
    Indicator(
        "ws_heartbeats", "Real time", "Heartbeat time-outs", "share",
        Ratio(
            (_of("ws_heartbeats_total", result="timeout"),), (_of("ws_heartbeats_total"),), 10 * MINUTE, least=20,
        ),
        (warning(">=", 0.05), critical(">=", 0.2)),
        "Clients that vanish: mobile networks, or a proxy with a time-out shorter than 40 s.",
    ),
    Indicator(
        "ws_slow", "Real time", "Connections that are behind", "share",
        Fullness(_of("ws_slow_connections"), _of("ws_connections")),
        (warning(">", 0.05), critical(">", 0.5, 5 * MINUTE)),
        "The slowest stand on /ops: a tenant's bad network, or the machine's own.",
        (Enough(Level(_of("ws_connections"), "sum"), 20),),
    ),
    Indicator(
        "ws_send_queue", "Real time", "Bytes that wait for sockets", "bytes",
        Level(_of("ws_send_queue_bytes")), (warning(">", 64 << 20), critical(">", 256 << 20)),
        "A slow client holds 256 KiB at most; this many of them are a network that is full.",
    ),
    Indicator(
        "ws_lost", "Real time", "Connections lost, 10 min", "share",
        Ratio(
            (_of("ws_disconnects_total", reason=("heartbeat_timeout", "slow", "error")),),
            (_of("ws_disconnects_total"), _of("ws_connections_opened_total")), 10 * MINUTE, least=20,
        ),
        (warning(">", 0.2),),
        "reason of ws_disconnects_total says which: network, slow clients, or faults of ours (log).",
    ),
    # Jobs
    Indicator(
        "tasks_failed", "Jobs", "Jobs that failed, share", "share",
        Ratio((TASK_FAILED,), (ENDED,), 10 * MINUTE, least=5), (critical(">", 0.05),),
        "/ops, Failed jobs: the traceback of each. Log: `Job failed for good`.",
    ),
    Indicator(
        "tasks_failing", "Jobs", "Jobs that failed, 10 min", "count",
        Increase(TASK_FAILED, 10 * MINUTE), (warning(">", 0, 0),),
        "/ops, Failed jobs: traceback, trace, retry. python -m ottoai jobs list",
    ),
    Indicator(
        "task_budget", "Jobs", "Error budget of jobs (99.5 %), 1 h", "times",
        Burn((TASK_FAILED,), (ENDED,), 0.005, 5 * MINUTE, HOUR), (critical(">", 14.4, 2 * MINUTE),),
        "As above.",
    ),
    Indicator(
        "task_p95", "Jobs", "Duration, P95", "seconds",
        Quantile(0.95, _of("worker_task_duration_seconds", task=NO_PROBE), 10 * MINUTE),
        (warning(">=", 30, 2 * MINUTE), critical(">=", 60, 2 * MINUTE)),
        "Which: worker_task_duration_seconds by task. A provider that hangs, or the database.",
    ),
    Indicator(
        "queue_length", "Jobs", "Longest queue", "count",
        Level(_of("rq_queue_length")), (warning(">=", 100, 2 * MINUTE), critical(">=", 1000, 5 * MINUTE)),
        "`bulk`: one tenant has much to do. Else: is a queue paused? More workers: fly scale count worker=2",
    ),
    Indicator(
        "queue_age", "Jobs", "Oldest waiting job", "seconds",
        Level(_of("rq_queue_oldest_job_age_seconds", queue=("urgent", "default"))),
        (warning(">", 60, MINUTE), critical(">", 300, MINUTE)),
        "Workers too few, stuck or gone; is the queue paused?",
    ),
    Indicator(
        "outbox_age", "Jobs", "Overdue in the outbox", "seconds",
        Level(_of("outbox_oldest_age_seconds")), (warning(">", 30, MINUTE), critical(">", 300, MINUTE)),
        "Workers too few or a queue paused. python -m ottoai jobs list --state open",
    ),
    Indicator(
        "queue_paused", "Jobs", "A queue has been paused for", "seconds",
        Level(_of("queue_paused_seconds")), (info(">", 0, 0), warning(">", HOUR, 0)),
        "Nothing of it is begun; of `default` neither recap, reconcile nor retention. Forgotten? /ops, Queues: Resume.",
    ),
    Indicator(
        "jobs_dead", "Jobs", "Dead jobs", "count",
        Level(_of("outbox_dead")), (info(">", 0, MINUTE),),
        "/ops, Failed jobs: retry or discard each.",
    ),
    # Webhooks
    Indicator(
        "webhook_failed", "Webhooks", "Webhooks failed, 10 min", "count",
        Increase(_of("webhook_requests_total", outcome="failed"), 10 * MINUTE), (critical(">", 0, 0),),
        "Whose: provider of webhook_requests_total. Clerk sends again; CallRail never does, and switches a webhook off "
        "that keeps failing. Log: `Request failed`. Is PostgreSQL up, and SPOOL_DIR usable?",
    ),
    Indicator(
        "webhook_quarantined", "Webhooks", "Quarantined, 1 h", "count",
        Increase(_of("webhook_requests_total", outcome=("quarantined",)), HOUR), (warning(">", 0, 0),),
        "Genuine and not understood: /ops/quarantine names the field; mend it, then replay.",
    ),
    Indicator(
        "webhook_unclaimed", "Webhooks", "Of unknown companies, 1 h", "count",
        Increase(_of("webhook_requests_total", outcome="unclaimed"), HOUR), (info(">", 0, 0),),
        "Add the company: python -m ottoai tenant add. Log: `Webhook of an unknown company kept`.",
    ),
    Indicator(
        "webhook_rejected", "Webhooks", "Rejected", "share",
        Ratio((REJECTED,), (DELIVERIES,), HOUR, least=10),
        (warning(">=", 0.05, 0),),
        "A wrong signing key: python -m ottoai tenant rotate-key; of Twilio also a wrong PUBLIC_URL. Log: "
        "`Webhook rejected`.",
        # So many that what make smoke:foundations sends does not count.
        (Enough(Increase(REJECTED, HOUR), 4),),
    ),
    Indicator(
        "webhook_p95", "Webhooks", "Processing, P95", "seconds",
        Quantile(0.95, _of("webhook_processing_seconds"), 5 * MINUTE),
        (warning(">", 0.5), critical(">", 1, 5 * MINUTE)),
        "As for the response time.",
    ),
    Indicator(
        "webhook_duplicates", "Webhooks", "Duplicates ignored, 1 h", "count",
        Increase(_of("idempotency_duplicates_total"), HOUR), (),
        "More than 0 shows that it works; very many are a provider that does not get its answers.",
    ),
    Indicator(
        "webhook_unknown", "Webhooks", "Unknown providers or kinds, 1 h", "count",
        Increase(_of("webhook_requests_total", outcome="unknown"), HOUR), (info(">", 0, 0),),
        "Log: `New webhook provider detected`, `Webhook of an unknown kind refused`.",
    ),
    Indicator(
        "webhook_silent", "Webhooks", "Tenants whose webhooks fell silent", "count",
        Level(_of("webhook_silent_tenants")), (warning(">", 0, 5 * MINUTE),),
        "/ops names them. Has the provider switched the webhook off? Look in its settings, and: python -m ottoai "
        "tenant reconcile",
    ),
    Indicator(
        "webhook_spool", "Webhooks", "Waiting on disk", "count",
        Level(_of("webhook_spool_deliveries"), "sum"), (warning(">", 0, MINUTE), critical(">", 1000, MINUTE)),
        "They are taken in when PostgreSQL is back. Do not throw the process's disk away. Log: "
        "`Spooled webhook waits`.",
    ),
    Indicator(
        "webhook_spool_usable", "Webhooks", "Room on disk for webhooks", "state",
        Level(_of("webhook_spool_usable"), "min"), (warning("<", 1, MINUTE),),
        "SPOOL_DIR is not set, not writable or full: without PostgreSQL webhooks would be lost. Log: `Spool`.",
    ),
    # Stores
    Indicator(
        "db_pool", "Stores", "Database connections in use", "share",
        Fullness(_of("db_pool_connections", state="used"), _of("db_pool_max_connections"), by=("pool",)),
        (warning(">=", 0.8, 2 * MINUTE), critical(">=", 1, 2 * MINUTE)),
        "Slow queries hold them (log: `Slow query`), or DB_POOL_SIZE is too small.",
    ),
    Indicator(
        "db_wait", "Stores", "Waiting for a connection, P95", "seconds",
        Quantile(0.95, _of("db_pool_wait_seconds"), 5 * MINUTE, least=20),
        (warning(">", 0.1), critical(">", 1, 2 * MINUTE)),
        "As above.",
    ),
    Indicator(
        "db_query", "Stores", "Queries, P95", "seconds",
        Quantile(0.95, _of("db_query_duration_seconds"), 5 * MINUTE, least=20),
        (warning(">", 0.1), critical(">", 0.5, 5 * MINUTE)),
        "db_query_duration_seconds by query; log: `Slow query`. An index, a plan, or a database that is too small.",
    ),
    Indicator(
        "db_slow", "Stores", "Slow queries, 10 min", "count",
        Increase(_of("db_slow_queries_total"), 10 * MINUTE), (info(">", 0, 0), warning(">=", 20, 0)),
        "Log: `Slow query`, with the query's name and its time.",
    ),
    Indicator(
        "cache_hits", "Stores", "Cache hit rate", "share",
        Ratio((_of("cache_requests_total", result="hit"),), (CACHE,), 10 * MINUTE, least=100),
        (info("<", 0.8, 30 * MINUTE), warning("<", 0.7, 5 * MINUTE)),
        "Clients that ask for something else each time, or Redis short of memory. Answers are right all the same.",
    ),
    Indicator(
        "redis_up", "Stores", "Redis checks that were answered", "share",
        Ratio((_of("redis_checks_total", result="ok"),), (_of("redis_checks_total"),), 10 * MINUTE, least=5),
        # Of 120 checks one may miss, and is seen for the ten minutes; it is told only if others follow.
        (info("<", 1, 15 * MINUTE), warning("<", 0.99, 0), critical("<", 0.9, 0)),
        "result of redis_checks_total: `timeout` – slow or a network that loses; `error` – refused. redis-cli info",
    ),
    Indicator(
        "redis_ping", "Stores", "Redis, round trip", "seconds",
        Level(_of("redis_ping_seconds")), (warning(">", 0.05, MINUTE), critical(">", 0.5, MINUTE)),
        "redis-cli --latency; redis-cli slowlog get; is its machine busy?",
    ),
    Indicator(
        "redis_memory", "Stores", "Redis memory", "share",
        Fullness(_of("redis_memory_used_bytes"), _of("redis_memory_max_bytes")),
        (warning(">=", 0.8), critical(">=", 0.95)),
        "Policy volatile-lru? Then pages go first and no job is lost; more memory all the same.",
    ),
    # Resources
    Indicator(
        "memory", "Resources", "Memory by the container's limit", "share",
        Fullness(_of("process_resident_memory_bytes"), _of("process_memory_limit_bytes")),
        (info(">=", 0.7), warning(">=", 0.8), critical(">=", 0.95)),
        "Is it growing (a leak), or too small? fly scale memory 1024 --process-group api",
    ),
    Indicator(
        "memory_api", "Resources", "Memory of an api process", "bytes",
        Level(Select("process_resident_memory_bytes", kind="api")), (info(">", 512 << 20),),
        "More connections than planned, or a leak.",
    ),
    Indicator(
        "memory_worker", "Resources", "Memory of a worker", "bytes",
        Level(Select("process_resident_memory_bytes", kind="worker")), (info(">", 256 << 20),),
        "Past WORKER_MEMORY_MB it starts itself afresh.",
    ),
    Indicator(
        "memory_beat", "Resources", "Memory of beat", "bytes",
        Level(Select("process_resident_memory_bytes", kind="beat")), (info(">", 128 << 20),),
        "A leak: restart it, nothing is lost.",
    ),
    Indicator(
        "files", "Resources", "Open files by their limit", "share",
        Fullness(_of("process_open_fds"), _of("process_max_fds")), (info(">=", 0.7), critical(">=", 0.9)),
        "Each connection is one: raise the limit (ulimit -n), or add api processes.",
    ),
)  # fmt: skip

GROUPS: Final = tuple(dict.fromkeys(each.group for each in INDICATORS))


@dataclass(frozen=True, slots=True)
class BoundOverride:
    """Another bound for an indicator: `at` None switches it off; `seconds` None leaves how long."""

    indicator: str
    level: str
    at: float | None
    seconds: float | None

    def __str__(self) -> str:
        at = "off" if self.at is None else f"{self.at:g}"
        return f"{self.indicator}.{self.level}={at}" + ("" if self.seconds is None else f"/{self.seconds:g}s")


_OVERRIDE: Final = re.compile(
    r"([a-z0-9_]+)\.(info|warning|critical)=(?:(off)|(-?\d+(?:\.\d+)?)(?:/(\d+(?:\.\d+)?)s)?)"
)


def parse_overrides(words: Sequence[str]) -> tuple[BoundOverride, ...]:
    """Read "http_p95.warning=0.8/120s" and the like. Raises ValueError, also for a bound that is not in the table."""
    found = [_OVERRIDE.fullmatch(word) for word in words]
    if not all(found):
        raise ValueError("must look like http_p95.warning=0.8,queue_length.critical=5000/120s,cache_hits.warning=off")
    overrides = tuple(
        BoundOverride(match[1], match[2], None if match[3] else float(match[4]), float(match[5]) if match[5] else None)
        for match in found
        if match
    )
    known = {each.alert(bound) for each in INDICATORS for bound in each.bounds}
    if unknown := {f"{each.indicator}.{each.level}" for each in overrides} - known:
        raise ValueError(f"names bounds that there are not: {', '.join(sorted(unknown))}")
    return overrides


def effective(overrides: Sequence[BoundOverride]) -> tuple[Indicator, ...]:
    """The table with bounds as ALERT_BOUNDS says."""
    wanted = {(each.indicator, each.level): each for each in overrides}
    return tuple(replace(each, bounds=tuple(_overridden(each, wanted))) for each in INDICATORS)


def _overridden(indicator: Indicator, wanted: Mapping[tuple[str, str], BoundOverride]) -> Iterator[Bound]:
    for bound in indicator.bounds:
        override = wanted.get((indicator.id, bound.level))
        if override is None:
            yield bound
        elif override.at is not None:
            seconds = bound.seconds if override.seconds is None else override.seconds
            yield replace(bound, at=override.at, seconds=seconds)

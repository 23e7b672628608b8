"""Every figure this software measures: one declaration each, with its meaning, labels, known values and buckets.

`Metrics` is made once per process and passed around; an undeclared name or label is an error. No label ever names a
tenant. How a figure is kept and written is the matter of `instruments`; what is good or bad that of the indicators.
"""

import platform
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal, TypeVar

import psutil

from ottoai.instruments import CounterMetric, GaugeMetric, HistogramMetric, Instrument, exposition

CGROUPS: Final = Path("/sys/fs/cgroup")
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_T = TypeVar("_T", bound=Instrument)

ANY: Final[tuple[str, ...]] = ()  # a label whose values cannot be listed beforehand
PROVIDERS: Final = ("callrail", "twilio", "clerk")
DISCONNECTS: Final = (
    "client", "heartbeat_timeout", "slow", "expired", "malformed", "too_large", "draining", "epoch", "error",
    "kicked", "revoked", "over_quota", "unavailable",
)  # fmt: skip
RATE_LIMITS: Final = ("user", "tenant", "route", "address")
RECONCILED: Final = (
    "success", "unfinished", "unauthorized", "rate_limited", "unavailable", "invalid", "ambiguous", "failed",
)  # fmt: skip
POOLS: Final = ("ottoai_app", "ottoai_system")
CACHES: Final = ("calls", "leads", "messages", "tasks", "missed_calls", "timeline")
JOB_STATES: Final = ("queued", "started", "scheduled", "deferred", "failed", "finished")

# The limits of the operations guide (500 ms, 1 s) are edges, so a percentile near one of them is exact.
REQUEST_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
# Edges at every promise made about events: 25 ms idle, 50/100/150 ms under load, 1 s "real time", 2 s without Redis.
EVENT_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.0, 5.0)
# Most jobs take milliseconds; a provider's API seconds; 30 s is the guide's limit, 300 s is a job gone astray.
TASK_BOUNDS: Final = (0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
# From "at once" over the 2 s of a missed call's text to the 30 s after which beat repairs, and a real backlog.
WAIT_BOUNDS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
WEBHOOK_BOUNDS: Final = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)  # goal 50 ms, guide 500 ms
# A query or a borrowed connection takes a fraction of a millisecond; the far edges are the server's timeouts.
STORE_BOUNDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
LAG_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)  # 50 ms is the flush window


Kind = Literal["api", "worker", "beat"]

# Which processes measure a figure, by the beginning of its name; every process measures the others.
ONLY_IN: Final[tuple[tuple[Kind, tuple[str, ...]], ...]] = (
    ("api", ("http_", "ws_", "event_", "events_", "webhook_", "idempotency_", "cross_tenant_", "rate_limit_", "ready")),
    ("api", ("cache_",)),
    ("api", ("rq_", "redis_", "worker_last_", "jwks_", "probe_", "business_open", "alert_", "indicator_")),
    ("worker", ("worker_", "reconcile_")),
    ("beat", ("beat_", "outbox_")),
)


def measured_in(name: str) -> Kind | None:
    """The kind of process that measures this figure; None when every one does."""
    return next((kind for kind, beginnings in ONLY_IN if name.startswith(beginnings)), None)


class Metrics:
    """The figures of one process: made once when it starts, passed to whoever measures."""

    def __init__(self, version: str, kind: Kind | None = None) -> None:
        self._kind = kind
        self._lock = threading.Lock()
        self.instruments: list[Instrument] = []
        c, g, h = self._counter, self._gauge, self._histogram

        self.http_requests_total = c(
            "http_requests_total", "HTTP requests answered.", method=ANY, route=ANY, status=ANY
        )
        self.http_request_duration_seconds = h(
            "http_request_duration_seconds", "Time to answer a request.", REQUEST_BOUNDS, method=ANY, route=ANY
        )
        self.http_requests_in_flight = g("http_requests_in_flight", "Requests being answered now.")
        self.http_requests_in_flight.set(0)

        self.ws_connections = g("ws_connections", "Open WebSockets.")
        self.ws_connections.set(0)
        self.ws_connections_opened_total = c("ws_connections_opened_total", "WebSockets that were let in.")
        self.ws_disconnects_total = c(
            "ws_disconnects_total",
            "WebSockets that ended, by cause.",
            reason=DISCONNECTS,
        )
        self.ws_auth_failures_total = c(
            "ws_auth_failures_total",
            "WebSockets refused for their token or origin.",
            reason=("missing", "invalid", "expired", "revoked", "timeout", "origin"),
        )
        self.ws_messages_sent_total = c("ws_messages_sent_total", "Frames handed to WebSockets.")
        self.ws_messages_dropped_total = c(
            "ws_messages_dropped_total", "Events a client did not get.", reason=("transient", "unrepairable")
        )
        self.ws_heartbeats_total = c("ws_heartbeats_total", "Heartbeats, by outcome.", result=("ok", "timeout"))
        self.ws_send_queue_bytes = g("ws_send_queue_bytes", "Bytes that wait for their clients to take them.")
        self.ws_slow_connections = g("ws_slow_connections", "WebSockets that are behind because of unsent bytes.")
        self.event_e2e_latency_seconds = h(
            "event_e2e_latency_seconds", "From the fact's commit to the socket's buffer.", EVENT_BOUNDS
        )
        self.events_repaired_total = c(
            "events_repaired_total",
            "Events fetched from the log because the hint was late or lost.",
            source=("gap", "heads", "reconnect"),
        )

        self.probe_event_seconds = h(
            "probe_event_seconds", "The self-probe's event, from commit to a socket's other end.", EVENT_BOUNDS
        )
        self.probe_job_seconds = h(
            "probe_job_seconds", "The self-probe's job, from staged to its result heard.", WAIT_BOUNDS
        )
        self.probe_failures_total = c(
            "probe_failures_total",
            "Self-probes that did not come through: staging them, their event, their job.",
            part=("stage", "event", "job"),
        )
        # Not business_hours: promtool takes the word for a unit.
        self.business_open = g("business_open", "1 during BUSINESS_HOURS, else 0.")

        self.worker_task_total = c(
            "worker_task_total",
            "Jobs that ended, by outcome.",
            task=ANY,
            queue=ANY,
            status=("success", "failure", "retry", "stopped"),
        )
        self.worker_task_duration_seconds = h(
            "worker_task_duration_seconds", "Time a job ran.", TASK_BOUNDS, task=ANY, queue=ANY
        )
        self.worker_task_wait_seconds = h(
            "worker_task_wait_seconds", "Time from due to started.", WAIT_BOUNDS, queue=ANY
        )
        self.reconcile_runs_total = c(
            "reconcile_runs_total", "Comparisons of a tenant's calls with CallRail's list.", outcome=RECONCILED
        )
        self.reconcile_calls_total = c(
            "reconcile_calls_total",
            "Calls that CallRail lists and our log lacked: unheard of, unfinished or otherwise, or not readable.",
            result=("recovered", "corrected", "quarantined"),
        )
        self.rq_queue_length = g("rq_queue_length", "Jobs waiting.", queue=ANY)
        self.rq_queue_oldest_job_age_seconds = g(
            "rq_queue_oldest_job_age_seconds", "Age of the longest waiting job.", queue=ANY
        )
        self.rq_jobs = g("rq_jobs", "Jobs RQ knows, by state.", queue=ANY, state=JOB_STATES)
        self.rq_workers = g("rq_workers", "Workers alive, by state.", state=("idle", "busy"))
        self.worker_last_heartbeat_timestamp_seconds = g(
            "worker_last_heartbeat_timestamp_seconds", "When each worker was last heard (Unix time).", worker=ANY
        )
        self.beat_last_tick_timestamp_seconds = g(
            "beat_last_tick_timestamp_seconds", "When beat last went through its schedule (Unix time)."
        )
        self.outbox_open = g("outbox_open", "Staged jobs whose effect has not yet committed.")
        self.outbox_oldest_age_seconds = g("outbox_oldest_age_seconds", "How long the oldest of them is overdue.")
        self.outbox_dead = g("outbox_dead", "Staged jobs that were given up and wait for an operator.")
        self.queue_paused_seconds = g(
            "queue_paused_seconds", "For how long the first of the paused queues has been stopped; 0: none is."
        )

        self.jwks_fetches_total = c(
            "jwks_fetches_total", "Times that the keys of tokens were fetched.", result=("ok", "failed")
        )
        self.webhook_requests_total = c(
            "webhook_requests_total",
            "Deliveries received, by outcome; `unknown`: nobody receives these, provider `other` included.",
            provider=(*PROVIDERS, "other"),
            outcome=(
                "processed",
                "duplicate",
                "ignored",
                "quarantined",
                "unclaimed",
                "spooled",
                "rejected",
                "failed",
                "unknown",
            ),
        )
        self.webhook_processing_seconds = h(
            "webhook_processing_seconds", "Time to take a delivery in.", WEBHOOK_BOUNDS, provider=PROVIDERS
        )
        self.webhook_spool_deliveries = g(
            "webhook_spool_deliveries", "Deliveries that wait on this process's disk for PostgreSQL."
        )
        self.webhook_spool_bytes = g("webhook_spool_bytes", "Room that they take.")
        self.webhook_spool_usable = g("webhook_spool_usable", "1 when deliveries can be kept there, 0 when not.")
        self.webhook_spool_usable.set(0)
        self.webhook_silent_tenants = g(
            "webhook_silent_tenants", "Tenants of which no delivery came for longer than is usual for them."
        )
        self.idempotency_duplicates_total = c(
            "idempotency_duplicates_total", "Deliveries that had come before.", provider=PROVIDERS
        )
        self.rate_limit_checks_total = c(
            "rate_limit_checks_total",
            "Requests held against a limit.",
            limit_type=RATE_LIMITS,
            result=("allowed", "limited"),
        )
        self.rate_limit_hits_total = c(
            "rate_limit_hits_total",
            "Requests over a limit: refused, unless the limits are on trial.",
            limit_type=RATE_LIMITS,
            route=ANY,
        )
        self.cross_tenant_access_attempts_total = c(
            "cross_tenant_access_attempts_total", "Requests for what belongs to another tenant.", route=("/ws",)
        )

        self.cache_requests_total = c(
            "cache_requests_total",
            "Pages of lists, by where they came from: kept, read and kept, or read past a Redis that is away.",
            cache=CACHES,
            result=("hit", "miss", "bypass"),
        )
        self.db_pool_connections = g(
            "db_pool_connections", "Connections to PostgreSQL, by state.", pool=POOLS, state=("used", "idle")
        )
        self.db_pool_max_connections = g(
            "db_pool_max_connections", "Most connections this process may open.", pool=POOLS
        )
        self.db_pool_wait_seconds = h("db_pool_wait_seconds", "Time to get a connection.", STORE_BOUNDS)
        self.db_query_duration_seconds = h(
            "db_query_duration_seconds", "Time of a query, as its caller sees it.", STORE_BOUNDS, query=ANY
        )
        self.db_slow_queries_total = c("db_slow_queries_total", "Queries that took longer than SLOW_QUERY_MS.")
        self.redis_checks_total = c(
            "redis_checks_total", "PINGs to Redis, one every few seconds.", result=("ok", "timeout", "error")
        )
        self.redis_ping_seconds = g("redis_ping_seconds", "Round trip of the last PING.")
        self.redis_memory_used_bytes = g("redis_memory_used_bytes", "Memory Redis uses.")
        self.redis_memory_max_bytes = g("redis_memory_max_bytes", "Memory Redis may use; 0 is no limit.")
        self.ready = g(
            "ready",
            "1 when a component is well, 0 when not.",
            component=("database", "redis", "worker", "beat", "migrations"),
        )

        self.indicator_value = g(
            "indicator_value",
            "Each indicator of the whole fleet, in its unit; none while there is no data.",
            indicator=ANY,
        )
        self.indicator_verdict = g(
            "indicator_verdict",
            "What it means: 0 not judged, 1 ok, 2 info, 3 warning, 4 critical.",
            indicator=ANY,
        )
        self.alert_notifications_total = c(
            "alert_notifications_total", "Alerts told to ALERT_WEBHOOK_URL.", result=("ok", "failed")
        )
        self.event_loop_lag_seconds = h("event_loop_lag_seconds", "How late the event loop wakes.", LAG_BOUNDS)
        self.build_info = g("build_info", "Always 1; says what runs.", version=ANY, python=ANY)
        self.build_info.set(1, version=version, python=platform.python_version())
        self.process_cpu_seconds_total = c("process_cpu_seconds_total", "Processor time used, user and system.")
        self.process_resident_memory_bytes = g("process_resident_memory_bytes", "Resident memory.")
        self.process_memory_limit_bytes = g(
            "process_memory_limit_bytes", "What the container or service may use, or the machine has."
        )
        self.process_open_fds = g("process_open_fds", "Open file descriptors.")
        self.process_max_fds = g("process_max_fds", "Most there may be.")
        self.process_start_time_seconds = g("process_start_time_seconds", "When the process started (Unix time).")
        self.process_threads = g("process_threads", "Threads.")

    def render(self) -> str:
        """All figures in the Prometheus text format 0.0.4. Any thread may call it; it costs a few milliseconds.

        A process of a kind shows what it can measure: zeros of what happens elsewhere would look like an outage there.
        """
        self._read_process()
        shown = [each for each in self.instruments if not self._kind or measured_in(each.name) in (None, self._kind)]
        return exposition(shown)

    def table(self) -> str:
        """The declared metrics as a Markdown table, for the docs."""
        rows = ["| Metric | Type | Labels | Meaning |", "|---|---|---|---|"]
        for each in sorted(self.instruments, key=lambda instrument: instrument.name):
            labels = ", ".join(f"`{label}`" for label in each.labels)
            kind = each.collector.__name__.lower()
            rows.append(f"| `{each.name}` | {kind} | {labels} | {each.meaning} |")
        return "\n".join(rows) + "\n"

    def _read_process(self) -> None:
        process = psutil.Process()
        with process.oneshot():
            used = process.cpu_times()
            self.process_cpu_seconds_total.follow(used.user + used.system)
            self.process_resident_memory_bytes.set(process.memory_info().rss)
            self.process_open_fds.set(process.num_fds())
            self.process_max_fds.set(process.rlimit(psutil.RLIMIT_NOFILE)[0])
            self.process_memory_limit_bytes.set(memory_limit())
            self.process_start_time_seconds.set(process.create_time())
            self.process_threads.set(process.num_threads())

    def _counter(self, name: str, meaning: str, **labels: tuple[str, ...]) -> CounterMetric:
        return self._declared(CounterMetric(self._lock, name, meaning, labels))

    def _gauge(self, name: str, meaning: str, **labels: tuple[str, ...]) -> GaugeMetric:
        return self._declared(GaugeMetric(self._lock, name, meaning, labels))

    def _histogram(
        self, name: str, meaning: str, bounds: tuple[float, ...], **labels: tuple[str, ...]
    ) -> HistogramMetric:
        return self._declared(HistogramMetric(self._lock, name, meaning, labels, bounds))

    def _declared(self, instrument: _T) -> _T:
        self.instruments.append(instrument)
        if isinstance(instrument, CounterMetric | HistogramMetric) and all(instrument.known.values()):
            instrument.zero()
        return instrument


def memory_limit(groups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes that this process may use: the least that its control group and those around it allow, or all that the
    machine has. cgroups(7): in a container the group's path may be one of the machine's, and `groups` be the group.
    """
    limit = int(psutil.virtual_memory().total)
    with suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            v1 = "memory" in controllers.split(",")
            if controllers and not v1:
                continue
            top, file = (groups / "memory", "memory.limit_in_bytes") if v1 else (groups, "memory.max")
            group = top / path.lstrip("/")
            for each in (group, *group.parents):
                if each.is_relative_to(top):
                    with suppress(OSError, ValueError):  # none there, or "max"
                        limit = min(limit, int((each / file).read_text()))
    return limit


def table() -> str:
    """The declared metrics as a Markdown table, for the docs."""
    return Metrics(version="").table()

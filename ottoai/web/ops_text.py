"""/ops.txt: how everything stands, for a terminal of 100 columns. What is not well comes first, with all that is needed
to act on it; what is well is told in a line.
"""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Final

from ottoai.indicators import GROUPS
from ottoai.ops.alerts import Alert
from ottoai.ops.reading import Reading
from ottoai.ops.status import Jobs, Process, Queue, Status
from ottoai.web.ops_words import age, many, meaning, size

WIDTH: Final = 98
FAILED: Final = 5  # failed jobs that are told: with the traceback of the latest they fit on one screen
UNKNOWN: Final = "not known: PostgreSQL does not answer"


def told(status: Status) -> str:
    """All of it. Control characters in what others wrote are shown, not obeyed by the terminal."""
    lines = [
        *_head(status), *_alerts(status), *_ailing(status), *_jobs(status), *_queues(status.queues),
        *_processes(status), *_rest(status), *_well(status.indicators),
    ]  # fmt: skip
    return "".join(f"{_plain(line)}\n" for line in lines)


def _plain(line: str) -> str:
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line)


def _head(status: Status) -> Iterator[str]:
    yield f"{status.words.upper()}  {status.environment}, {status.at:%Y-%m-%d %H:%M:%S} UTC"
    for notice in status.notices:
        yield f"! {notice}"
    versions = [f"{version} ({len(names)})" for version, names in sorted(status.versions.items())]
    yield f"versions {'differ: ' if len(versions) > 1 else ''}{', '.join(versions) or 'not known'}"
    if unready := [name for name, well in sorted(status.ready.items()) if not well]:
        yield f"components not well: {', '.join(unready)}"


def _alerts(status: Status) -> Iterator[str]:
    for alert in status.alerts:
        seen = f", acknowledged by {alert.acknowledged_by}" if alert.acknowledged_by else ""
        yield ""
        yield f"{alert.state.upper()} {alert.name}: {alert.title}, {alert.shown} ({alert.threshold})"
        yield f"  since {_since(alert, status.at)}{seen}"


def _since(alert: Alert, now: datetime) -> str:
    return f"{alert.since:%H:%M:%S} UTC ({age((now - alert.since).total_seconds())})"


def _ailing(status: Status) -> Iterator[str]:
    for reading in status.ailing:
        lasted = age((status.at - reading.since).total_seconds())
        yield ""
        yield f"{reading.verdict.upper()} {reading.title}: {reading.shown} (healthy: {reading.healthy}), for {lasted}"
        yield from textwrap.wrap(reading.action, WIDTH, initial_indent="  do: ", subsequent_indent="      ")


def _jobs(status: Status) -> Iterator[str]:
    yield ""
    jobs: Jobs | None = status.jobs
    if jobs is None:
        yield f"FAILED JOBS {UNKNOWN}"
        return
    yield f"FAILED JOBS {many(jobs.dead)} dead, {many(jobs.failing)} tried again"
    for job in jobs.latest[:FAILED]:
        state = f"{age((status.at - job.at).total_seconds())} ago" if job.state == "dead" else "tried again"
        yield f"  {job.id}  {job.job}, {job.tenant_id}, {job.attempts} attempts, {state}"
        yield from textwrap.wrap(job.error or "", WIDTH, initial_indent="    ", subsequent_indent="    ", max_lines=2)
    if jobs.traceback_end:
        first = jobs.latest[0].id
        yield f"  the end of the traceback of {first} (all of it: /ops/jobs/{first})"
        yield from (f"    {line}" for line in jobs.traceback_end.splitlines())


def _queues(queues: Sequence[Queue]) -> Iterator[str]:
    def known(value: float | None) -> str:
        return "?" if value is None else f"{value:.0f}"

    yield ""
    yield from _table(
        ("QUEUE", "WAITING", "OLDEST", "OPEN", "RUNNING", "AGAIN", "OVERDUE", "DEAD", ""),
        [
            (
                queue.name,
                known(queue.length),
                "?" if queue.oldest_seconds is None else age(queue.oldest_seconds),
                *map(known, (queue.open, queue.running, queue.failing, queue.overdue, queue.dead)),
                f"paused by {queue.paused.paused_by}" if queue.paused else "",
            )
            for queue in queues
        ],
    )


def _processes(status: Status) -> Iterator[str]:
    def state(process: Process) -> str:
        return process.state if process.alive or process.state == "stopped" else "SILENT"

    yield ""
    yield from _table(
        ("PROCESS", "STATE", "VERSION", "UP", "MEMORY", "HEARD", "AT"),
        [
            (
                process.name,
                state(process),
                process.version,
                age((process.heard_at - process.started_at).total_seconds()),
                size(process.memory_bytes),
                f"{age((status.at - process.heard_at).total_seconds())} ago",
                process.current_job or (f"{process.connections} sockets" if process.connections is not None else ""),
            )
            for process in status.processes
        ],
    )


def _rest(status: Status) -> Iterator[str]:
    yield ""
    for part, known in (("schedule", status.schedule), ("quarantine", status.quarantine)):
        if known is None:
            yield f"{part} {UNKNOWN}"
    if status.silent is None:
        yield f"silent tenants {'not known yet' if status.database else UNKNOWN}"
    for run in status.schedule or ():
        what = f"{run.outcome}, {age((status.at - run.started_at).total_seconds())} ago"
        yield f"{run.name}: {what}{f': {run.error}' if run.error else ''}"
    if status.quarantine is not None and status.quarantine.count:
        yield f"quarantined webhooks: {status.quarantine.count} (/ops/quarantine)"
    if status.silent:
        yield f"webhooks fell silent: {', '.join(each.tenant_id for each in status.silent[:20])}"


def _well(readings: Sequence[Reading]) -> Iterator[str]:
    def told(heading: str, found: Iterable[tuple[str, str]]) -> Iterator[str]:
        said = list(found)
        if said:
            yield ""
            yield heading
        for group in GROUPS:
            if of_group := [words for name, words in said if name == group]:
                yield from textwrap.wrap(f"{group}: {'; '.join(of_group)}", WIDTH, subsequent_indent="  ")

    known = [each for each in readings if each.value is not None]
    yield from told("WELL", ((each.group, f"{each.title} {each.shown}") for each in known if each.verdict == "ok"))
    unjudged = [each for each in known if each.verdict == "none"]
    yield from told("NOT JUDGED", ((each.group, f"{each.title} {each.shown} ({meaning(each)})") for each in unjudged))
    yield from told("NO DATA", ((each.group, each.title) for each in readings if each.value is None))


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    table = [heads, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(heads))]
    for row in table:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()

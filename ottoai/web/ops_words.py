"""How operator pages say things: ages, sizes, where an indicator's cause is to be seen. For people; machines get
seconds and bytes.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from ottoai.domain.failed_jobs import COUNTED
from ottoai.indicators import Unit, shown
from ottoai.ops.reading import Reading
from ottoai.ops.sparks import Spark, line
from ottoai.web.docs import prose

_UNITS: Final = (("d", 86_400), ("h", 3600), ("min", 60))

PROCESSES: Final = ("#processes", "processes")
# Where on the status page, or one click from it, the cause of what an indicator says is to be seen.
PLACES: Final[Mapping[str, tuple[str, str]]] = {
    **dict.fromkeys(("tasks_failed", "tasks_failing", "task_budget", "jobs_dead"), ("#jobs", "failed jobs")),
    **dict.fromkeys(("queue_length", "queue_age", "outbox_age", "queue_paused"), ("#queues", "queues")),
    **dict.fromkeys(("worker", "beat", "beat_tick", "memory", "memory_api", "memory_worker", "memory_beat"), PROCESSES),
    **dict.fromkeys(("ws_connections", "ws_slow", "ws_send_queue"), ("#connections", "connections")),
    "webhook_quarantined": ("#quarantine", "quarantine"),
    "webhook_silent": ("#silent", "silent tenants"),
}  # fmt: skip


def age(seconds: float) -> str:
    """A time in its two largest units, or in seconds."""
    left = max(0, round(seconds))
    for place, (unit, length) in enumerate(_UNITS):
        if left >= length:
            count, left = divmod(left, length)
            smaller = _UNITS[place + 1 : place + 2]
            rest = [f"{left // size} {name}" for name, size in smaller if left >= size]
            return " ".join([f"{count} {unit}", *rest])
    return f"{left} s"


def size(count: float | None) -> str:
    """So many bytes, in the unit that suits."""
    if count is None:
        return "–"
    for unit, length in (("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10)):
        if count >= length:
            return f"{count / length:.3g} {unit}"
    return f"{count:.0f} B"


def many(count: int) -> str:
    """A number of jobs: counted up to COUNTED."""
    return f"{COUNTED - 1:,} or more" if count >= COUNTED else f"{count:,}"


def meaning(reading: Reading) -> str:
    """The verdict in words; why there is none."""
    if reading.verdict == "none":
        return reading.note or "not judged"
    return "well" if reading.verdict == "ok" else reading.verdict


def course(spark: Spark, unit: Unit, now: str) -> str:
    """A sparkline in words."""
    return f"Last 24 hours: least {shown(unit, spark.least)}, most {shown(unit, spark.most)}, now {now}"


FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "age": age, "course": course, "line": line, "many": many, "meaning": meaning, "prose": prose, "size": size,
}  # fmt: skip

"""When an indicator's bound becomes an alert, and when that alert is over: a state machine without I/O.

    nothing -> pending (the bound is passed) -> firing (passed for `bound.seconds` without a break) -> resolved

What a look finds is one of three things. Passed. Not passed: there is a value, and it is well or not to be judged now
(outside business hours). No data: a worker died and took its figures along; nobody knows, so an alert neither begins
nor fires by it, and one that fires goes on. Rows of alerts: `alert_rows`; who is told of them: `alerting`, `notify`.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from math import isnan
from typing import Final, Literal

import msgspec
from msgspec.structs import replace

from ottoai.indicators import VERDICTS, Bound, Indicator, Op, Severity, shown
from ottoai.measures import MINUTE, promql_time
from ottoai.ops.reading import Reading

# How long a bound must not be passed until its alert is over: longer than what makes figures swing. Those of slow
# bounds are windows of minutes, in which one bad moment comes and goes; one that fires at once must still not be told
# twice for a component that restarts, which takes less than a minute.
SETTLED: Final = timedelta(minutes=5)
SETTLED_QUICK: Final = timedelta(minutes=1)
# How long an alert goes on without data. A deploy, or an outage of Redis, is over by then, and a process that has
# vanished has an alert of its own; later an alert about figures that nobody has any more helps nobody.
BLANK: Final = timedelta(minutes=30)

SIGNS: Final[dict[Op, str]] = {">": ">", ">=": "≥", "<": "<", "<=": "≤"}

State = Literal["pending", "firing", "resolved"]


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One alert, from when it began to brew. `value`: the worst so far; `id`: of its row, once it has one.

    `quiet_since`: since when the bound is not passed; `blank_since`: since when there is no data.
    """

    name: str
    indicator: str
    level: Severity
    title: str = ""
    threshold: str = ""
    action: str = ""
    state: State
    pending_at: datetime
    fired_at: datetime | None = None
    resolved_at: datetime | None = None
    value: float | None = None
    shown: str = ""
    id: int | None = None
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    fired_notified_at: datetime | None = None
    resolved_notified_at: datetime | None = None
    quiet_since: datetime | None = None
    blank_since: datetime | None = None

    @property
    def since(self) -> datetime:
        """When it fired; when it began to brew, while it has not."""
        return self.fired_at or self.pending_at

    @property
    def severity(self) -> int:
        """The greater the worse."""
        return VERDICTS.index(self.level)


class Alerts:
    """The alerts of all bounds, as one process sees them."""

    def __init__(self, indicators: Iterable[Indicator]) -> None:
        self._bounds = {each.alert(bound): (each, bound) for each in indicators for bound in each.bounds}
        self._alerts: dict[str, Alert] = {}

    @property
    def active(self) -> list[Alert]:
        """Those that fire, then those that are pending; the worst first, then the oldest."""
        return sorted(self._alerts.values(), key=lambda each: (each.state != "firing", -each.severity, each.since))

    def look(self, readings: Sequence[Reading], now: datetime) -> list[Alert]:
        """Go on by what was found; the alerts that are over by it: resolved, or pending ones that came to nothing."""
        found = {each.id: each for each in readings}
        over = []
        for name, (indicator, bound) in self._bounds.items():
            if (reading := found.get(indicator.id)) is None:
                continue
            before = self._alerts.get(name)
            after = _next(before, indicator, bound, reading, now)
            if after is not None and after.state != "resolved":
                self._alerts[name] = after
            elif before is not None:
                del self._alerts[name]
                over.append(after or before)
        return over

    def adopt(self, rows: Sequence[Alert]) -> list[Alert]:
        """Go on from what is known of open alerts to all processes; those among them whose bound there is no more.

        What all know counts: who began when, who was told, who acknowledged. One that has a row, and is not among the
        open ones, is over.
        """
        known = {row.name: row for row in rows}
        for name, alert in list(self._alerts.items()):
            if alert.id is not None and (name not in known or known[name].id != alert.id):
                del self._alerts[name]
        for name in known.keys() & self._bounds.keys():
            self._alerts[name] = self._merged(known[name], self._alerts.get(name))
        return [row for name, row in known.items() if name not in self._bounds]

    def put(self, alert: Alert) -> None:
        """Keep what became known of an alert, if it is still there."""
        present = self._alerts.get(alert.name)
        if present is not None and present.pending_at == alert.pending_at:
            self._alerts[alert.name] = alert

    def inhibited(self, alert: Alert) -> bool:
        """Whether a worse alert of the same indicator fires: that one says it all."""
        return any(
            other.indicator == alert.indicator and other.state == "firing" and other.severity > alert.severity
            for other in self._alerts.values()
        )

    def worded(self, row: Alert) -> Alert:
        """A row with the words of its bound, as far as that still exists."""
        if row.name not in self._bounds:
            return row
        indicator, bound = self._bounds[row.name]
        return replace(
            row,
            title=indicator.title,
            threshold=threshold(indicator, bound),
            action=indicator.action,
            shown=shown(indicator.unit, row.value),
        )

    def _merged(self, row: Alert, own: Alert | None) -> Alert:
        if own is None:
            return self.worded(row)
        indicator, bound = self._bounds[row.name]
        fired = min(filter(None, (row.fired_at, own.fired_at)), default=None)
        value = _worse(bound, row.value, own.value)
        return replace(
            own,
            id=row.id,
            state="firing" if fired else "pending",
            pending_at=row.pending_at,
            fired_at=fired,
            value=value,
            shown=shown(indicator.unit, value),
            acknowledged_at=row.acknowledged_at,
            acknowledged_by=row.acknowledged_by,
            fired_notified_at=row.fired_notified_at or own.fired_notified_at,
        )


def settled(bound: Bound) -> timedelta:
    """How long a bound must not be passed until its alert is over."""
    return SETTLED if bound.seconds >= MINUTE else SETTLED_QUICK


def threshold(indicator: Indicator, bound: Bound) -> str:
    """A bound in words: `≥ 100 for 2m`, `no for 30s`."""
    limit = "no" if indicator.unit == "state" else f"{SIGNS[bound.op]} {shown(indicator.unit, bound.at)}"
    return f"{limit} for {promql_time(bound.seconds)}" if bound.seconds else limit


def _passed(bound: Bound, reading: Reading) -> bool | None:
    """Whether a bound is passed; None when there is no data."""
    if reading.value is None or isnan(reading.value):
        return None
    return reading.verdict != "none" and bound.passed(reading.value)


def _next(alert: Alert | None, indicator: Indicator, bound: Bound, reading: Reading, now: datetime) -> Alert | None:
    """What becomes of an alert, or of its absence."""
    passed = _passed(bound, reading)
    if alert is None or alert.state == "pending":
        return _brewing(alert, indicator, bound, reading.value, now) if passed else None
    if passed:
        value = _worse(bound, alert.value, reading.value)
        return replace(alert, value=value, shown=shown(indicator.unit, value), quiet_since=None, blank_since=None)
    if passed is None:
        # Quiet time goes on: figures that come and go (too little traffic to judge) must come to an end as well.
        alert = replace(alert, blank_since=alert.blank_since or now)
        return _resolved(alert, now) if _lasted(alert.blank_since, now, BLANK) else alert
    alert = replace(alert, quiet_since=alert.quiet_since or now, blank_since=None)
    return _resolved(alert, now) if _lasted(alert.quiet_since, now, settled(bound)) else alert


def _lasted(since: datetime | None, now: datetime, time: timedelta) -> bool:
    """Whether something has lasted so long. A clock that was set back cannot tell: then it has."""
    return since is not None and not since <= now < since + time


def _brewing(alert: Alert | None, indicator: Indicator, bound: Bound, value: float | None, now: datetime) -> Alert:
    if alert is None:
        alert = Alert(
            name=indicator.alert(bound),
            indicator=indicator.id,
            level=bound.level,
            state="pending",
            pending_at=now,
            title=indicator.title,
            threshold=threshold(indicator, bound),
            action=indicator.action,
        )
    worst = _worse(bound, alert.value, value)
    alert = replace(alert, value=worst, shown=shown(indicator.unit, worst))
    if _lasted(alert.pending_at, now, timedelta(seconds=bound.seconds)):
        return replace(alert, state="firing", fired_at=now)
    return alert


def _resolved(alert: Alert, now: datetime) -> Alert:
    return replace(alert, state="resolved", resolved_at=now)


def _worse(bound: Bound, *values: float | None) -> float | None:
    known: Iterator[float] = (each for each in values if each is not None)
    return (max if bound.op in {">", ">="} else min)(known, default=None)

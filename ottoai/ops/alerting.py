"""Alerts at work in one API process: goes on by each report, shares what it knows through rows, logs, says what is yet
to be told. When an alert fires and ends: `alerts`; who tells: `notify`.

Every process judges for itself. The one that leads (`leader`) writes rows, logs and tells; the others read rows, so
that they can go on where it stopped. Without PostgreSQL the leader goes on from memory, and writes later what happened.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from msgspec.structs import replace

from ottoai.db import Session
from ottoai.errors import Conflict, StoreUnavailable
from ottoai.indicators import Severity
from ottoai.ops import alert_rows
from ottoai.ops.alerts import Alert, Alerts
from ottoai.ops.leader import LIMIT, Leader
from ottoai.ops.monitor import Monitor

log = logging.getLogger(__name__)

LEVELS: Final[dict[Severity, int]] = {
    "info": logging.INFO, "warning": logging.WARNING, "critical": logging.ERROR,
}  # fmt: skip
# When one of these is another than in its row, an alert is written.
CHANGING: Final = ("state", "fired_at", "value", "fired_notified_at", "quiet_since", "blank_since")
REMEMBERED: Final = 500  # alerts that ended and are yet to be written or told: more than one bad night has
STALE: Final = timedelta(days=1)  # the end of an alert that nobody could be told of for so long is no news
WRITING: Final = 2.0  # seconds for all rows of a look; what is left is written at the next


class Alerting:
    """The alerts of one process. `telling`: whether there is somebody to tell."""

    def __init__(self, monitor: Monitor, system: Session, leader: Leader, *, telling: bool) -> None:
        self._monitor = monitor
        self._system = system
        self._leader = leader
        self._telling = telling
        self._alerts = Alerts(monitor.indicators)
        self._over: dict[tuple[str, datetime], Alert] = {}  # ended, and yet to be written or told
        self._written: dict[tuple[str, datetime], Alert] = {}
        self._logged: dict[str, datetime] = {}  # of those that fire: since when, as the log says
        self._led = False
        self.changed: Callable[[], None] = lambda: None  # called when there may be something to tell

    @property
    def active(self) -> list[Alert]:
        """Alerts that fire or are pending, the worst first."""
        return self._alerts.active

    async def past(self, system: Session, limit: int, before: int | None = None) -> list[Alert]:
        """Alerts that are over, the latest first; from behind that one on."""
        return [self._alerts.worded(row) for row in await alert_rows.past(system, limit, before)]

    async def acknowledge(self, system: Session, alert_id: int, actor: str) -> bool:
        """Note that somebody has seen an alert; whether it was open and nobody had."""
        done = await alert_rows.acknowledge(system, alert_id, actor)
        now = self._monitor.clock()
        for alert in self._alerts.active:
            if done and alert.id == alert_id:
                self._alerts.put(replace(alert, acknowledged_at=now, acknowledged_by=actor))
        return done

    async def look(self) -> None:
        """Go on by the latest report. To be called after each look of the watch, and after the leader's."""
        await self._read()
        now = self._monitor.report.at
        for alert in self._alerts.look(self._monitor.report.readings, now):
            if self._leader.leading:
                self._over[alert.name, alert.pending_at] = alert
        if self._leader.leading:
            self._log()
        if self._leader.stored:
            await self._write()
        self._forget(now)
        self.changed()

    def untold(self) -> list[Alert]:
        """What is yet to be told, by its state: alerts that ended, then those that fire, the worst first."""
        if not (self._leader.leading and self._telling):
            return []
        ended = [each for each in self._over.values() if each.fired_notified_at and not each.resolved_notified_at]
        firing = [
            each
            for each in self.active
            if each.state == "firing" and not each.fired_notified_at and not self._alerts.inhibited(each)
        ]
        return ended + firing

    def told(self, alert: Alert, at: datetime) -> None:
        """Note that an alert, or its end, was told; written at the next look."""
        # By name: an alert that ends does not come back while it is being told.
        for key, ended in self._over.items():
            if ended.name == alert.name and alert.state == "resolved":
                self._over[key] = replace(ended, resolved_notified_at=at)
            elif ended.name == alert.name and ended.resolved_notified_at is None:  # it ended while it was being told
                self._over[key] = replace(ended, fired_notified_at=at)
        for present in self.active:
            if present.name == alert.name and alert.state == "firing":
                self._alerts.put(replace(present, fired_notified_at=at))

    async def _read(self) -> None:
        """Take in what all processes know."""
        self._led &= self._leader.leading
        if not self._leader.stored:
            return
        taking_over = self._leader.leading and not self._led
        try:
            async with asyncio.timeout(LIMIT):
                rows = await alert_rows.unresolved(self._system)
                ended = []
                if taking_over and self._telling:
                    ended = await alert_rows.untold(self._system, self._monitor.clock() - STALE)
        except (StoreUnavailable, TimeoutError):
            return
        self._led = self._leader.leading
        self._adopt(rows, ended)

    def _adopt(self, rows: Sequence[Alert], ended: Sequence[Alert]) -> None:
        homeless = self._alerts.adopt([row for row in rows if not self._ended(row)])
        for row in rows:
            self._written[row.name, row.pending_at] = row
            if row.fired_at:
                self._logged.setdefault(row.name, row.fired_at)
        for row in ended:
            self._over.setdefault((row.name, row.pending_at), self._alerts.worded(row))
        if self._leader.leading:
            for row in homeless:  # of a bound that there is no more, by configuration or version
                self._over[row.name, row.pending_at] = replace(
                    row, state="resolved", resolved_at=self._monitor.clock(), resolved_notified_at=None
                )

    def _ended(self, row: Alert) -> bool:
        """Whether an open row is of an alert that has ended here, and could not be written yet."""
        return any(
            ended.name == row.name and (ended.resolved_at is None or row.pending_at < ended.resolved_at)
            for ended in self._over.values()
        )

    def _log(self) -> None:
        for alert in self.active:
            if alert.state == "firing" and alert.name not in self._logged:
                self._logged[alert.name] = alert.since
                log.log(LEVELS[alert.level], "Alert firing", extra=_fields(alert))
        for alert in self._over.values():
            if alert.state == "resolved" and alert.name in self._logged:
                del self._logged[alert.name]
                log.info("Alert resolved", extra=_fields(alert))

    async def _write(self) -> None:
        try:
            async with asyncio.timeout(WRITING):
                for key, alert in list(self._over.items()):
                    await self._close(key, alert)
                if self._leader.leading:
                    for alert in self.active:
                        await self._save(alert)
        except (StoreUnavailable, TimeoutError) as error:
            log.warning("Alerts not written", extra={"error": error})

    async def _close(self, key: tuple[str, datetime], alert: Alert) -> None:
        if alert.state == "pending":
            await alert_rows.drop(self._system, alert)
            del self._over[key]
        elif self._written.get(key) != alert:
            await alert_rows.save(self._system, alert)
            self._written[key] = alert

    async def _save(self, alert: Alert) -> None:
        key = (alert.name, alert.pending_at)
        if not _differs(alert, self._written.get(key)):
            return
        try:
            found = await alert_rows.save(self._system, alert)
        except Conflict:  # another process has begun one at this very moment; it is read at the next look
            return
        self._written[key] = alert
        for present in self.active:
            if found is not None and (present.name, present.pending_at) == key:
                self._alerts.put(replace(present, id=found))

    def _forget(self, now: datetime) -> None:
        """Forget what has ended and is written and told, or can no longer be."""
        for key, alert in list(self._over.items()):
            waiting = self._telling and alert.fired_notified_at and not alert.resolved_notified_at
            written = self._written.get(key) == alert
            if (written and not waiting) or now - (alert.resolved_at or now) > STALE or len(self._over) > REMEMBERED:
                del self._over[key]
        open_now = {(each.name, each.pending_at) for each in self.active} | self._over.keys()
        self._written = {key: row for key, row in self._written.items() if key in open_now}
        firing = {each.name for each in self.active if each.state == "firing"}
        for name in self._logged.keys() - firing - {name for name, _ in self._over}:
            del self._logged[name]


def _differs(alert: Alert, row: Alert | None) -> bool:
    return row is None or any(getattr(alert, name) != getattr(row, name) for name in CHANGING)


def _fields(alert: Alert) -> dict[str, object]:
    return {
        "alert": alert.name,
        "severity": alert.level,
        "title": alert.title,
        "value": alert.shown,
        "threshold": alert.threshold,
        "since": alert.since.isoformat(timespec="seconds"),
        "action": alert.action,
    }

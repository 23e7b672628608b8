"""Alerts as rows, so that they outlive processes and are known to all. When there is one: `alerts`."""

from collections.abc import AsyncIterable
from datetime import datetime
from typing import Final

from ottoai.db import Row, Session, queries
from ottoai.ops.alerts import Alert

_WRITTEN: Final = (
    "name", "level", "state", "pending_at", "fired_at", "resolved_at", "value", "fired_notified_at",
    "resolved_notified_at", "quiet_since", "blank_since",
)  # fmt: skip


async def unresolved(system: Session) -> list[Alert]:
    """Alerts that are not over."""
    return await _alerts(queries().ops.open_alerts(system))


async def untold(system: Session, since: datetime) -> list[Alert]:
    """Alerts that were told of and are over, which nobody was told yet."""
    return await _alerts(queries().ops.untold_alerts(system, since=since))


async def past(system: Session, limit: int, before: int | None = None) -> list[Alert]:
    """Alerts that are over, the latest first; from behind that one (an id) on."""
    return await _alerts(queries().ops.past_alerts(system, before=before, limit=limit))


async def save(system: Session, alert: Alert) -> int | None:
    """Write how an alert stands; its id, unless another process has ended it meanwhile."""
    found = await queries().ops.save_alert(system, **{name: getattr(alert, name) for name in _WRITTEN})
    return None if found is None else int(found)


async def drop(system: Session, alert: Alert) -> None:
    """Forget an alert that never fired."""
    await queries().ops.drop_alert(system, name=alert.name)


async def acknowledge(system: Session, alert_id: int, actor: str) -> bool:
    """Note that somebody has seen an open alert; whether it was they who did."""
    return await queries().ops.acknowledge_alert(system, id=alert_id, actor=actor) is not None


async def _alerts(rows: AsyncIterable[Row]) -> list[Alert]:
    return [Alert(indicator=row["name"].rpartition(".")[0], title=row["name"], **row) async for row in rows]

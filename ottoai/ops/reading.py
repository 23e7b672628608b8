"""What the watch finds at one moment: a reading of every indicator. For the pages, alerts and history."""

from datetime import datetime

import msgspec

from ottoai.indicators import VERDICTS, Indicator, Unit, Verdict, shown
from ottoai.measures import Figures


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """An indicator now. `value` null: no data. `note`: why not judged. `since`: since when so judged."""

    id: str
    group: str
    title: str
    unit: Unit
    value: float | None
    shown: str
    healthy: str
    verdict: Verdict
    note: str
    since: datetime
    action: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All of them, and the worst verdict. `at`: when this was."""

    at: datetime
    verdict: Verdict
    readings: list[Reading]


def judged(indicator: Indicator, figures: Figures) -> tuple[float | None, Verdict, str]:
    """(value, verdict, why it is not judged) of an indicator."""
    value = indicator.measure.value(figures)
    if value is None:
        return None, "none", "no data"
    verdict = indicator.verdict(value)
    for condition in indicator.conditions:
        if verdict != "ok" and not condition.met(figures):
            return value, "none", condition.unmet
    return value, verdict, ""


def reading(indicator: Indicator, found: tuple[float | None, Verdict, str], since: datetime) -> Reading:
    """A reading of what was found."""
    value, verdict, note = found
    return Reading(
        id=indicator.id,
        group=indicator.group,
        title=indicator.title,
        unit=indicator.unit,
        value=value,
        shown=shown(indicator.unit, value),
        healthy=indicator.healthy,
        verdict=verdict,
        note=note,
        since=since,
        action=indicator.action,
    )


def worst(readings: list[Reading]) -> Verdict:
    """The worst verdict; `none` counts least."""
    return max((each.verdict for each in readings), key=VERDICTS.index, default="none")

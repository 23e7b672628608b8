"""A tenant's own settings, as `tenant set` and the API change them: what each may be."""

from collections.abc import Callable, Mapping
from datetime import date
from typing import Any, Final

from ottoai.domain import hours as opening
from ottoai.domain import patterns
from ottoai.errors import InvalidInput

NAME_LENGTH: Final = 200
HOLIDAYS: Final = 366  # a year of them
TEXT_LENGTH: Final = 480  # about three segments of a text message, the placeholder not filled in
SLA_MINUTES: Final = range(1, 2881)  # up to the two days after which a rescue is over


def check_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """These settings (of CHECKS) as they are to be kept. Raises InvalidInput; its message begins with the name."""
    return {name: CHECKS[name](value) for name, value in given.items()}


def _name(name: str) -> str:
    if len(name) > NAME_LENGTH:
        raise InvalidInput(f"name: at most {NAME_LENGTH} characters")
    patterns.check("name", name, patterns.LINE)
    return name


def _timezone(name: str) -> str:
    opening.parse_zone(name)
    return name


def _hours(hours: str) -> str:
    opening.parse(hours, "UTC")
    return hours


def _holidays(days: list[date]) -> list[date]:
    if len(set(days)) > HOLIDAYS:
        raise InvalidInput(f"holidays: at most {HOLIDAYS} days")
    return sorted(set(days))


def _template(name: str) -> Callable[[str | None], str | None]:
    def check(text: str | None) -> str | None:
        if text is None:  # the text of the house
            return None
        if len(text) > TEXT_LENGTH:
            raise InvalidInput(f"{name}: at most {TEXT_LENGTH} characters")
        patterns.check(name, text, patterns.TEMPLATE)
        return text

    return check


def _sla_minutes(minutes: int) -> int:
    if minutes not in SLA_MINUTES:
        raise InvalidInput(f"sla_minutes: must be from {SLA_MINUTES.start} to {SLA_MINUTES.stop - 1}")
    return minutes


CHECKS: Final[dict[str, Callable[[Any], Any]]] = {
    "name": _name,
    "timezone": _timezone,
    "hours": _hours,
    "holidays": _holidays,
    "texts_enabled": bool,
    "first_text": _template("first_text"),
    "follow_up_text": _template("follow_up_text"),
    "sla_minutes": _sla_minutes,
}

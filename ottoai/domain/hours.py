"""When a text may go out: the tenant's opening hours, and never at night where the phone is. Pure: `now` is given."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
import phonenumbers
from phonenumbers import timezone as phone_timezone

from ottoai.errors import InvalidInput

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
DEFAULT = "Mon-Fri 09:00-17:00"
NIGHT_ENDS, NIGHT_BEGINS = time(8), time(21)  # 47 CFR 64.1200(c)(1): no solicitation before 8 or after 21, there
HORIZON_DAYS = 14  # Hours repeat weekly: what does not open within two weeks never does.

_DAYS = "|".join(DAYS)
_HOURS = re.compile(rf"({_DAYS})(?:-({_DAYS}))? (\d\d):(\d\d)-(\d\d):(\d\d)")
_UNKNOWN_ZONE = "Etc/Unknown"


class Hours(msgspec.Struct, frozen=True):
    """Weekly opening hours in the tenant's time zone. No spans: open always."""

    zone: ZoneInfo
    spans: tuple[tuple[frozenset[int], time, time], ...]  # weekdays (Monday is 0), opens, closes


def parse_zone(name: str) -> ZoneInfo:
    """A time zone by its IANA name. Raises InvalidInput."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidInput(f"timezone: {name!r} is no IANA time zone such as America/New_York") from error


def parse(hours: str, zone: str) -> Hours:
    """Read `always`, or spans such as `Mon-Fri 09:00-17:00, Sat 10:00-12:00`. Raises InvalidInput."""
    if hours == "always":
        return Hours(parse_zone(zone), ())
    return Hours(parse_zone(zone), tuple(_span(part.strip()) for part in hours.split(",")))


def _span(text: str) -> tuple[frozenset[int], time, time]:
    match = _HOURS.fullmatch(text)
    try:
        if not match:
            raise ValueError
        first, last = DAYS.index(match[1]), DAYS.index(match[2] or match[1])
        opens, closes = time(int(match[3]), int(match[4])), time(int(match[5]), int(match[6]))
        if opens >= closes:
            raise ValueError
    except ValueError:
        raise InvalidInput(f"hours: {text!r} must be `always` or like `{DEFAULT}`") from None
    return frozenset((first + n) % 7 for n in range((last - first) % 7 + 1)), opens, closes


def first_text_at(now: datetime, hours: Hours, phone: str | None) -> datetime:
    """The first moment from `now` on at which the tenant is open and it is day where the phone is. When the two never
    meet, the night still counts and the opening hours do not.
    """
    zones = phone_zones(phone, hours.zone)
    moment = now
    while moment - now < timedelta(days=HORIZON_DAYS):
        opening = next_opening(moment, hours)
        if opening is None:
            break
        moment = next_day(opening, zones)
        if moment == opening:
            return moment
    return next_day(now, zones)


def next_opening(moment: datetime, hours: Hours) -> datetime | None:
    """The first moment from `moment` on at which the tenant is open; None when it never is."""
    if not hours.spans:
        return moment
    local = moment.astimezone(hours.zone)
    found = []
    for ahead in range(8):
        day = (local + timedelta(days=ahead)).date()
        for weekdays, opens, closes in hours.spans:
            if day.weekday() in weekdays:
                start = datetime.combine(day, opens, hours.zone).astimezone(UTC)
                end = datetime.combine(day, closes, hours.zone).astimezone(UTC)
                if moment < end:
                    found.append(max(moment, start))
        if found:
            return min(found)
    return None


def next_day(moment: datetime, zones: Sequence[ZoneInfo]) -> datetime:
    """The first moment from `moment` on at which it is not night in any of these zones."""
    for _ in range(len(zones) + 1):
        for zone in zones:
            local = moment.astimezone(zone)
            if not NIGHT_ENDS <= local.time() < NIGHT_BEGINS:
                later = local.date() + timedelta(days=local.time() >= NIGHT_BEGINS)
                moment = datetime.combine(later, NIGHT_ENDS, zone).astimezone(UTC)
    return moment


def phone_zones(phone: str | None, fallback: ZoneInfo) -> tuple[ZoneInfo, ...]:
    """Every zone a number may be in, by its prefix; the fallback when the prefix does not tell."""
    if not phone:
        return (fallback,)
    names = phone_timezone.time_zones_for_number(phonenumbers.parse(phone))
    # Names from the number plan are IANA's, but may be newer than the machine's zone database.
    known = [name for name in names if name != _UNKNOWN_ZONE]
    try:
        return tuple(ZoneInfo(name) for name in known) or (fallback,)
    except ZoneInfoNotFoundError:
        return (fallback,)


def e164(text: str | None) -> str | None:
    """A phone number in E.164, read as North American unless it says otherwise; None for what is no number."""
    try:
        number = phonenumbers.parse(text or "", "US")
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_possible_number(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)

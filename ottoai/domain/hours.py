"""When a tenant is open, and when a text may go out: while it is, and never at night where the phone is. Pure: `now` is
given.

Open is when the clock on the tenant's wall says so. When clocks are set forward, what they skip is no open time; when
they are set back, what they show twice is open twice.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
import phonenumbers
from phonenumbers import timezone as phone_timezone

from ottoai import weekly
from ottoai.errors import InvalidInput

DEFAULT = "Mon-Fri 09:00-17:00"
NIGHT_ENDS, NIGHT_BEGINS = time(8), time(21)  # 47 CFR 64.1200(c)(1): no solicitation before 8 or after 21, there
HORIZON = timedelta(weeks=2)  # Hours repeat weekly: what does not open within two weeks, holidays aside, never does.

LONGEST = 250  # characters of a number, with all that stands around it: phonenumbers reads no more
PHONES = 4_096  # numbers that are remembered: several reports tell of each call, and each is read twice

_UNKNOWN_ZONE = "Etc/Unknown"


class Hours(msgspec.Struct, frozen=True):
    """Weekly opening hours in the tenant's time zone. No spans: open always, but on holidays, when nobody is."""

    zone: ZoneInfo
    spans: tuple[weekly.Span, ...]
    holidays: frozenset[date] = frozenset()


def parse_zone(name: str) -> ZoneInfo:
    """A time zone by its IANA name. Raises InvalidInput."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidInput(f"timezone: {name!r} is no IANA time zone such as America/New_York") from error


def parse(hours: str, zone: str, holidays: Sequence[date] = ()) -> Hours:
    """Read `always`, or spans such as `Mon-Fri 09:00-17:00, Sat 10:00-12:00`. Raises InvalidInput."""
    try:
        spans = weekly.parse(hours)
    except ValueError as error:
        raise InvalidInput(f"hours: {error}") from None
    return Hours(parse_zone(zone), spans, frozenset(holidays))


def first_text_at(now: datetime, hours: Hours, phone: str | None) -> datetime:
    """The first moment from `now` on at which the tenant is open and it is day where the phone is. When the two never
    meet, the night and the holidays still count and the opening hours do not.
    """
    zones = phone_zones(phone, hours.zone)
    for opening in (hours, Hours(hours.zone, (), hours.holidays)):
        if moment := _first_meeting(now, opening, zones):
            return moment
    return next_day(now, zones)


def _first_meeting(now: datetime, hours: Hours, zones: Sequence[ZoneInfo]) -> datetime | None:
    end = _horizon(now, hours)
    moment = now
    while moment < end:
        opening = next_opening(moment, hours)
        if opening is None:
            break
        moment = next_day(opening, zones)
        if moment == opening:
            return moment
    return None


def next_opening(moment: datetime, hours: Hours) -> datetime | None:
    """The first moment from `moment` on at which the tenant is open; None when it never is."""
    return next((start for start, _ in _open_spans(moment, hours)), None)


def after_open_time(moment: datetime, open_time: timedelta, hours: Hours) -> datetime | None:
    """The moment at which so much open time (more than none) has passed since `moment`: while the tenant is open, or as
    it closes. None when it is not open for so long within the horizon.
    """
    if not hours.spans and not hours.holidays:
        return moment.astimezone(UTC) + open_time
    left = open_time
    for start, end in _open_spans(moment, hours):
        if end - start >= left:
            return start + left
        left -= end - start
    return None


def _open_spans(moment: datetime, hours: Hours) -> Iterator[tuple[datetime, datetime]]:
    """The stretches of open time from `moment` up to the horizon, in order, apart or adjacent."""
    end = _horizon(moment, hours)
    moment = moment.astimezone(UTC)
    while moment < end:
        later = _end_of_piece(moment, hours.zone)
        wall = moment.astimezone(hours.zone).replace(tzinfo=None)
        for opens, closes in _on_the_wall(wall, wall + (later - moment), hours):
            yield moment + (opens - wall), moment + (closes - wall)
        moment = later


def _end_of_piece(moment: datetime, zone: ZoneInfo) -> datetime:
    """Up to when the clock runs on without being set and the date stays: the next midnight, or a change of clocks."""
    local = moment.astimezone(zone)
    offset = local.utcoffset()
    midnight = datetime.combine(local.date() + timedelta(days=1), time())
    later = moment + (midnight - local.replace(tzinfo=None))
    if later.astimezone(zone).utcoffset() == offset:
        return later
    seconds = range(int(moment.timestamp()), int(later.timestamp()) + 1)  # clocks are set at whole seconds
    change = bisect_left(seconds, True, key=lambda at: datetime.fromtimestamp(at, zone).utcoffset() != offset)
    return datetime.fromtimestamp(seconds[change], UTC)


def _on_the_wall(wall: datetime, until: datetime, hours: Hours) -> Iterator[tuple[datetime, datetime]]:
    """What is open between two times of one day on the wall."""
    day = wall.date()
    if day in hours.holidays:
        return
    if not hours.spans:
        yield wall, until
    midnight = datetime.combine(day, time())
    for opens, closes in sorted(span[1:] for span in hours.spans if day.weekday() in span[0]):
        start, end = max(wall, midnight + opens), min(until, midnight + closes)
        if start < end:
            yield start, end
            wall = end  # spans may overlap; their time counts once


def _horizon(moment: datetime, hours: Hours) -> datetime:
    """How far is looked ahead: each holiday to come may be the one day of its week on which the tenant would open."""
    today = moment.astimezone(hours.zone).date()
    return moment + HORIZON + timedelta(weeks=sum(day >= today for day in hours.holidays))


def next_day(moment: datetime, zones: Sequence[ZoneInfo]) -> datetime:
    """The first moment from `moment` on at which it is not night in any of these zones."""
    for _ in range(len(zones) + 1):
        for zone in zones:
            local = moment.astimezone(zone)
            if not NIGHT_ENDS <= local.time() < NIGHT_BEGINS:
                later = local.date() + timedelta(days=local.time() >= NIGHT_BEGINS)
                moment = datetime.combine(later, NIGHT_ENDS, zone).astimezone(UTC)
    return moment


@lru_cache(PHONES)
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
    return _e164(text) if text and len(text) <= LONGEST else None


@lru_cache(PHONES)
def _e164(text: str) -> str | None:
    try:
        number = phonenumbers.parse(text, "US")
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_possible_number(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)

"""An independent reckoning of when a caller may be texted: a walk through time, a quarter of an hour at a step, that
shares no code with the product. Every opening hour and every night here begins and ends on a quarter.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

QUARTER = timedelta(minutes=15)
MINUTE = timedelta(minutes=1)
STEPS = (timedelta(0), timedelta(hours=2), timedelta(hours=10), timedelta(hours=24))
END = timedelta(hours=48)


@dataclass(frozen=True)
class Company:
    """A tenant as the oracle sees it. `weekdays`: Monday is 0; `opens`, `closes`: HH:MM, or None for always open."""

    id: str
    zone: str
    weekdays: tuple[int, ...]
    opens: str | None
    closes: str | None
    holidays: tuple[date, ...]
    sla: int

    @property
    def hours(self) -> str:
        """The same in the product's words."""
        names = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
        if self.opens is None:
            return "always"
        return ", ".join(f"{names[day]} {self.opens}-{self.closes}" for day in self.weekdays)

    def is_open(self, moment: datetime) -> bool:
        local = moment.astimezone(ZoneInfo(self.zone))
        if local.date() in self.holidays:
            return False
        if self.opens is None or self.closes is None:
            return True
        return local.weekday() in self.weekdays and self.opens <= f"{local:%H:%M}" < self.closes

    def may_text(self, moment: datetime, phone_zone: str) -> bool:
        return self.is_open(moment) and 8 <= moment.astimezone(ZoneInfo(phone_zone)).hour < 21

    def escalates_at(self, called_at: datetime) -> datetime | None:
        """The minute after which the open time has passed; None when that is after the end."""
        left, moment = self.sla, called_at
        while moment < called_at + END:
            if left == 0:
                return moment
            left -= self.is_open(moment)
            moment += MINUTE
        return None


def moments(company: Company, called_at: datetime, phone_zone: str) -> Iterator[datetime]:
    """When a caller whom nobody reaches is texted: a step at its minute or the next opening, those that meet once."""
    last = None
    for step in STEPS:
        moment = called_at + step
        if not company.may_text(moment, phone_zone):
            moment = moment.replace(minute=moment.minute // 15 * 15, second=0)
            while not company.may_text(moment, phone_zone) and moment < called_at + END:
                moment += QUARTER
        if moment < called_at + END and moment != last:
            yield moment
            last = moment

"""Weekly hours as people write them: `Mon-Fri 09:00-17:00, Sat 10:00-12:00`. When that is open is in domain/hours.

It stands below the configuration, which has such hours as well as tenants do.
"""

import re
from datetime import timedelta
from typing import Final

DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MIDNIGHT: Final = timedelta(hours=24)  # at which a day may close: 24:00

Span = tuple[frozenset[int], timedelta, timedelta]  # weekdays (Monday is 0); opens and closes, on the wall, since 00:00

_DAYS: Final = "|".join(DAYS)
_SPAN: Final = re.compile(rf"({_DAYS})(?:-({_DAYS}))? (\d\d):([0-5]\d)-(\d\d):([0-5]\d)")


def parse(text: str) -> tuple[Span, ...]:
    """Read `always`, which is no spans, or spans with a comma between them. Raises ValueError."""
    return () if text == "always" else tuple(_span(part.strip()) for part in text.split(","))


def _span(text: str) -> Span:
    if match := _SPAN.fullmatch(text):
        first, last = DAYS.index(match[1]), DAYS.index(match[2] or match[1])
        opens = timedelta(hours=int(match[3]), minutes=int(match[4]))
        closes = timedelta(hours=int(match[5]), minutes=int(match[6]))
        if opens < closes <= MIDNIGHT:
            return frozenset((first + n) % 7 for n in range((last - first) % 7 + 1)), opens, closes
    raise ValueError(f"must be `always`, or look like Mon-Fri 09:00-17:00, Sat 10:00-12:00: {text!r} does not")

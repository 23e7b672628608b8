"""How much may be asked for: rates such as 60/minute, and the routes that they hold for. Limiting itself is in limits.

It stands below the configuration, which reads rates and refuses routes that do not exist.
"""

from dataclasses import dataclass
from typing import Final, Literal

SECONDS: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
MOST: Final = 1_000_000  # requests in a period; past one a microsecond there is nothing left to limit

# Nouns are asked for when something is looked at; what is live is asked for all the time, by clients that are idle too.
RouteClass = Literal["api", "live"]

# Every route that is limited, and with which others it shares an allowance. A test holds it against the route table.
ROUTES: Final[dict[str, RouteClass]] = {
    "GET /api/events": "live",
    "GET /api/events/stream": "live",
    "GET /api/calls": "api",
    "GET /api/calls/{id}": "api",
    "GET /api/leads": "api",
    "GET /api/leads/{id}": "api",
    "PATCH /api/leads/{id}": "api",
    "GET /api/leads/{id}/messages": "api",
    "POST /api/leads/{id}/messages": "api",
    "GET /api/leads/{id}/timeline": "api",
    "GET /api/tasks": "api",
    "GET /api/tasks/{id}": "api",
    "PATCH /api/tasks/{id}": "api",
    "GET /api/missed-calls": "api",
    "GET /api/missed-calls/{id}": "api",
    "GET /api/settings": "api",
    "PATCH /api/settings": "api",
}


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests in a period: all of them at once at most, and then one as often as the period has room for."""

    limit: int
    unit: str

    def __str__(self) -> str:
        return f"{self.limit}/{self.unit}"

    @property
    def seconds(self) -> int:
        """The period."""
        return SECONDS[self.unit]

    @property
    def interval(self) -> int:
        """Microseconds that one request takes up; rounded up, so that never more than the limit fit."""
        return -(-self.seconds * 1_000_000 // self.limit)

    @property
    def capacity(self) -> int:
        """Microseconds that may be taken up at once."""
        return self.interval * self.limit


@dataclass(frozen=True, slots=True)
class RouteRate:
    """The rate of one route, "GET /api/calls" for instance, in place of that of its class."""

    route: str
    rate: Rate

    def __str__(self) -> str:
        return f"{self.route}={self.rate}"


def parse(raw: str) -> Rate:
    """Read "60/minute". Raises ValueError."""
    count, _, unit = raw.partition("/")
    if not count.isdecimal() or not 1 <= int(count) <= MOST or unit not in SECONDS:
        raise ValueError(f"must look like 60/minute: 1 to {MOST} in a {', '.join(SECONDS)}")
    return Rate(int(count), unit)


def parse_routes(raw: str) -> tuple[RouteRate, ...]:
    """Read "GET /api/calls=120/minute,…". Raises ValueError, naming everything that is wrong."""
    found: dict[str, Rate] = {}
    problems = []
    for word in filter(None, (each.strip() for each in raw.split(","))):
        route, _, rate = word.rpartition("=")
        route = " ".join(route.split())
        if route not in ROUTES:
            problems.append(f"names {route or word!r}, which is none of {', '.join(ROUTES)}")
        elif route in found:
            problems.append(f"names {route} twice")
        try:
            found[route] = parse(rate.strip())
        except ValueError as error:
            problems.append(f"{route or word}: {error}")
    if problems:
        raise ValueError("; ".join(problems))
    return tuple(RouteRate(route, rate) for route, rate in found.items())

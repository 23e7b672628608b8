"""Tells ALERT_WEBHOOK_URL of alerts: once when one fires, once when it is over. Slack's format, which others read too.

What is to be told is asked anew each time (`Alerting.untold`), so nothing piles up while the receiver is away: an alert
that came and went meanwhile is not told at all. A receiver that took a message and did not say so is told again.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import redis.asyncio
from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar
from redis.exceptions import RedisError

from ottoai.indicators import Severity
from ottoai.metrics import Metrics
from ottoai.ops.alerting import Alerting
from ottoai.ops.alerts import Alert
from ottoai.ops.leader import LIMIT
from ottoai.ops.monitor import Clock

log = logging.getLogger(__name__)

WITHIN: Final = 10.0  # seconds for one message: Slack answers in a fraction of one
FIRST_WAIT: Final = timedelta(seconds=5)  # after a failure; doubled each time
LONGEST_WAIT: Final = timedelta(minutes=5)  # what is mended at night is told of within minutes
COLOURS: Final[dict[Severity, str]] = {"info": "#2b6cb0", "warning": "#b7791f", "critical": "#c53030"}
RESOLVED: Final = "#2f855a"


class Refused(Exception):
    """The receiver did not take a message."""


class Marks:
    """What was told, in Redis: so that with PostgreSQL away the next one who speaks does not tell it again."""

    KEY: Final = "ops:told"
    KEPT: Final = timedelta(days=7)  # longer than PostgreSQL is ever away
    # Two processes see the same alert begin up to one look apart, and their clocks may differ a little.
    APART: Final = timedelta(seconds=10)

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis = client

    async def told_at(self, alert: Alert) -> datetime | None:
        """When this was told, if somebody did and left a mark."""
        try:
            async with asyncio.timeout(LIMIT):
                found = await self._redis.hget(self.KEY, f"{alert.name}:{alert.state}")
        except (RedisError, OSError, TimeoutError):
            return None
        at = datetime.fromtimestamp(float(found), UTC) if found else None
        begun = alert.since if alert.state == "resolved" else alert.pending_at
        return at if at is not None and at >= begun - self.APART else None

    async def set(self, alert: Alert, at: datetime) -> None:
        """Leave a mark, and take that of its opposite away."""
        opposite = "resolved" if alert.state == "firing" else "firing"
        with suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(LIMIT), self._redis.pipeline(transaction=True) as pipe:
                pipe.hset(self.KEY, f"{alert.name}:{alert.state}", str(at.timestamp()))
                pipe.hdel(self.KEY, f"{alert.name}:{opposite}")
                pipe.expire(self.KEY, self.KEPT)
                await pipe.execute()


class Notifier:
    """Tells one receiver. `page`: where the indicators can be looked at, or empty."""

    def __init__(
        self,
        alerting: Alerting,
        session: ClientSession,
        marks: Marks,
        metrics: Metrics,
        clock: Clock,
        url: str,
        page: str,
    ) -> None:
        self._alerting = alerting
        self._session = session
        self._marks = marks
        self._metrics = metrics
        self._clock = clock
        self._url = url
        self._page = page
        self._wait = FIRST_WAIT
        self._not_before: datetime | None = None
        self._wake = asyncio.Event()
        alerting.changed = self._wake.set

    async def run(self) -> None:
        """Tell for ever, after each look."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.run_once()

    async def run_once(self) -> None:
        """Tell what is to be told, unless the receiver has failed lately. At the first failure the rest waits."""
        # Nor after a clock has been set back does anything wait longer than it is meant to.
        if self._not_before is not None and timedelta(0) < self._not_before - self._clock() <= LONGEST_WAIT:
            return
        for alert in self._alerting.untold():
            if (at := await self._marks.told_at(alert)) is None:
                try:
                    await self._post(alert)
                except (ClientError, OSError, TimeoutError, ValueError, Refused) as error:
                    self._failed(error)
                    return
                at = self._clock()
                self._succeeded()
                await self._marks.set(alert, at)
            self._alerting.told(alert, at)

    async def _post(self, alert: Alert) -> None:
        # Nothing of the answer's body is read, and nobody is followed elsewhere.
        async with self._session.post(self._url, json=message(alert, self._page), allow_redirects=False) as response:
            response.close()
            if not 200 <= response.status < 300:
                raise Refused(f"answered {response.status}")

    def _succeeded(self) -> None:
        self._metrics.alert_notifications_total.inc(result="ok")
        if self._not_before is not None:
            log.info("Alerts are told again")
        self._wait, self._not_before = FIRST_WAIT, None

    def _failed(self, error: Exception) -> None:
        self._metrics.alert_notifications_total.inc(result="failed")
        if self._not_before is None:
            log.warning("Alert not told", extra={"error": describe(error)})
        self._not_before = self._clock() + self._wait
        self._wait = min(self._wait * 2, LONGEST_WAIT)


def describe(error: Exception) -> str:
    """What went wrong, without the address, which is a secret and stands in many of the library's messages."""
    return str(error) if isinstance(error, Refused) else type(error).__name__


def message(alert: Alert, page: str) -> dict[str, Any]:
    """An alert, or its end, for people who read it on a phone."""
    over = alert.state == "resolved"
    since = alert.since.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    fields = [
        ("Worst value" if over else "Value", alert.shown),
        ("Threshold", alert.threshold),
        ("Since", since),
        ("Severity", alert.level),
        *([("Lasted", _duration(alert))] if over else []),
    ]
    summary = f"{'Resolved' if over else alert.level.upper()}: {alert.title}"
    link = f"{page}#indicator-{alert.indicator}" if page else ""
    return {
        "text": _escaped(summary if over else f"{summary}: {alert.shown} (alert: {alert.threshold})"),
        "attachments": [
            {
                "fallback": _escaped(
                    f"{summary}, {alert.shown} (alert: {alert.threshold}), since {since}. {alert.action}"
                ),
                "color": RESOLVED if over else COLOURS[alert.level],
                "title": _escaped(alert.name),
                **({"title_link": link} if link else {}),
                **({} if over else {"text": _escaped(alert.action)}),
                "fields": [{"title": name, "value": _escaped(value), "short": True} for name, value in fields],
                "ts": int((alert.resolved_at or alert.since).timestamp()),
            }
        ],
    }


def _duration(alert: Alert) -> str:
    return str(timedelta(seconds=int(((alert.resolved_at or alert.since) - alert.since).total_seconds())))


def _escaped(text: str) -> str:
    """As Slack wants it: these three are its control characters."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


@asynccontextmanager
async def open_session() -> AsyncIterator[ClientSession]:
    """For calls to the outside that may hang."""
    async with ClientSession(cookie_jar=DummyCookieJar(), timeout=ClientTimeout(total=WITHIN)) as session:
        yield session

"""Calls HEARTBEAT_URL every minute, so that somebody outside notices when all of this is silent, alerts included.

Only the process that speaks for all calls, and only while its own watch looks: a watch that hangs is to be missed.
"""

import asyncio
import logging
from datetime import timedelta
from typing import Final

from aiohttp import ClientError, ClientSession

from ottoai.ops.leader import Leader
from ottoai.ops.monitor import Monitor
from ottoai.ops.notify import Refused, describe

log = logging.getLogger(__name__)

EVERY: Final = 60.0  # seconds, as such services expect
FRESH: Final = timedelta(seconds=30)  # six looks of the watch


class Heartbeat:
    """One process's part in it."""

    def __init__(self, monitor: Monitor, leader: Leader, session: ClientSession, url: str) -> None:
        self._monitor = monitor
        self._leader = leader
        self._session = session
        self._url = url
        self._heard = True

    async def run(self) -> None:
        """Call for ever."""
        while True:
            await asyncio.sleep(EVERY)
            await self.run_once()

    async def run_once(self) -> None:
        """Call, if it is ours to do and the watch is well. Whoever does not answer is called again in a minute."""
        if not self._leader.leading or self._monitor.clock() - self._monitor.report.at > FRESH:
            return
        try:
            async with self._session.get(self._url, allow_redirects=False) as response:
                response.close()
                if not 200 <= response.status < 300:
                    raise Refused(f"answered {response.status}")
        except (ClientError, OSError, TimeoutError, ValueError, Refused) as error:
            if self._heard:
                log.warning("Heartbeat not heard outside", extra={"error": describe(error)})
            self._heard = False
        else:
            self._heard = True

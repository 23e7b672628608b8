"""What follows from each look of the watch, put together: who speaks, alerts, history, silent tenants; and the loops
that tell the outside.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import redis.asyncio

from ottoai import tally
from ottoai.background import Loop
from ottoai.config import Config
from ottoai.db import Session
from ottoai.metrics import Metrics
from ottoai.ops.alerting import Alerting
from ottoai.ops.archive import Archive
from ottoai.ops.heartbeat import Heartbeat
from ottoai.ops.leader import Leader, open_leader
from ottoai.ops.monitor import Monitor
from ottoai.ops.notify import Marks, Notifier, open_session
from ottoai.ops.silent import Silence


@dataclass(frozen=True, slots=True)
class Watch:
    """The parts, and the loops to run beside the monitor's."""

    leader: Leader
    alerting: Alerting
    archive: Archive
    silence: Silence
    notifier: Notifier | None
    heartbeat: Heartbeat | None

    @property
    def loops(self) -> list[Loop]:
        """See above."""
        return [each.run for each in (self.notifier, self.heartbeat) if each is not None]


@asynccontextmanager
async def open_watch(
    config: Config, monitor: Monitor, system: Session, client: redis.asyncio.Redis, metrics: Metrics
) -> AsyncIterator[Watch]:
    """All of it, hung up behind the monitor's look."""
    async with open_session() as session, open_leader(system, client, tally.process_name("api")) as leader:
        alerting = Alerting(monitor, system, leader, telling=bool(config.alert_webhook_url))
        archive = Archive(monitor, system, leader)
        silence = Silence(system, metrics, monitor.clock)
        monitor.follow += [leader.look, alerting.look, archive.look, silence.look]
        page = f"{config.public_url}/ops" if config.public_url else ""
        notifier, heartbeat = None, None
        if url := config.alert_webhook_url:
            notifier = Notifier(alerting, session, Marks(client), metrics, monitor.clock, url, page)
        if url := config.heartbeat_url:
            heartbeat = Heartbeat(monitor, leader, session, url)
        yield Watch(leader, alerting, archive, silence, notifier, heartbeat)

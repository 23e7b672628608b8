"""What operators and machines ask: /health, /ready, /internal/worker/heartbeat, /metrics."""

import asyncio
import hmac
import logging
from datetime import UTC, datetime
from typing import Literal

import msgspec
from aiohttp import web
from redis.exceptions import RedisError

from ottoai import __version__, metrics, tally
from ottoai.errors import InvalidInput, Unauthenticated
from ottoai.web import auth, keys
from ottoai.web.api.reading import respond

logger = logging.getLogger(__name__)


class Alive(msgspec.Struct, frozen=True):
    """The body of /health. `status`: `healthy`, or `draining` when the process is about to stop."""

    status: Literal["healthy", "draining"]
    service: str
    version: str
    environment: str


class Heartbeat(msgspec.Struct, frozen=True):
    """One process, as it was last heard. `host` and `current_job` are null where the caller may not know them."""

    name: str
    state: str
    queues: list[str]
    current_job: str | None
    host: str | None
    version: str
    last_heartbeat: datetime
    age_seconds: float
    alive: bool


class Heartbeats(msgspec.Struct, frozen=True):
    """The body of /internal/worker/heartbeat."""

    healthy: bool
    workers: list[Heartbeat]
    beat: list[Heartbeat]
    beat_last_tick: datetime | None
    timestamp: datetime


async def health(request: web.Request) -> web.Response:
    """Whether this process lives. No I/O."""
    draining = request.app[keys.HEALTH].draining
    environment = request.app[keys.CONFIG].environment
    body = Alive("draining" if draining else "healthy", "ottoai-api", __version__, environment)
    return respond(body, 503 if draining else 200)


async def ready(request: web.Request) -> web.Response:
    """Whether this process can do its work."""
    readiness = await request.app[keys.HEALTH].readiness()
    return respond(readiness, 200 if readiness.ready else 503)


async def worker_heartbeat(request: web.Request) -> web.Response:
    """Every worker and beat, and when they were last heard. 503 when either was not heard for 30 s."""
    now = datetime.now(UTC)
    try:
        snapshots = await tally.read(request.app[keys.REDIS])
    except (RedisError, OSError) as error:
        logger.warning("Heartbeats not readable", extra={"error": error})
        snapshots = []
    private = _may_see_all(request)
    workers = [_heartbeat(found, now, private=private) for found in snapshots if found.kind == "worker"]
    beats = [_heartbeat(found, now, private=private) for found in snapshots if found.kind == "beat"]
    ticks = [found.ticked_at for found in snapshots if found.kind == "beat" and found.ticked_at]
    healthy = any(worker.alive for worker in workers) and any(beat.alive for beat in beats)
    body = Heartbeats(healthy, workers, beats, max(ticks, default=None), now)
    return respond(body, 200 if healthy else 503)


async def prometheus(request: web.Request) -> web.Response:
    """The figures of this process and, unless `scope=local`, of every worker and beat. Of those that ended, the last
    counts are told for a quarter of an hour.
    """
    if not _may_see_all(request):
        raise Unauthenticated("METRICS_TOKEN is set: send it as a bearer token.")
    scope = request.query.get("scope", "fleet")
    if scope not in {"fleet", "local"}:
        raise InvalidInput("scope: must be fleet or local")
    app = request.app
    await app[keys.GAUGES].refresh()
    texts = {tally.process_name("api"): await asyncio.to_thread(app[keys.METRICS].render)}
    dead: set[str] = set()
    if scope == "fleet":
        try:
            others = [found for found in await tally.read(app[keys.REDIS]) if found.kind != "api"]
            texts |= {found.name: found.metrics_text for found in others}
            now = datetime.now(UTC)
            dead = {found.name for found in others if not tally.alive(found, now)}
        except (RedisError, OSError) as error:
            logger.warning("Figures of workers not readable", extra={"error": error})
    merged = await asyncio.to_thread(tally.merge, texts, dead)  # 20 ms for five processes: too long for the loop
    return web.Response(body=merged.encode(), headers={"Content-Type": metrics.CONTENT_TYPE})


def _may_see_all(request: web.Request) -> bool:
    config = request.app[keys.CONFIG]
    own = request.transport.get_extra_info("sockname") if request.transport else None
    if config.metrics_port and own and own[1] == config.metrics_port:
        return True
    token = config.metrics_token
    return not token or hmac.compare_digest((auth.bearer(request) or "").encode(), token.encode())


def _heartbeat(found: tally.Snapshot, now: datetime, *, private: bool) -> Heartbeat:
    return Heartbeat(
        name=found.name if private else f"{found.kind}-{found.pid}",
        state=found.state,
        queues=found.queues,
        current_job=found.current_job if private else None,
        host=found.host if private else None,
        version=found.version,
        last_heartbeat=found.at,
        age_seconds=round((now - found.at).total_seconds(), 2),
        alive=tally.alive(found, now),
    )

"""The API process: the table of contents. What it holds, what stands around its handlers, and where they are."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

import aiohttp_jinja2
from aiohttp import web
from jinja2 import PackageLoader

from ottoai import __version__, queue, tally
from ottoai.background import running
from ottoai.cache import open_cache
from ottoai.config import Config
from ottoai.db import Database, open_pool, refuse_privilege
from ottoai.errors import ConfigError, StoreUnavailable
from ottoai.failing import Failing
from ottoai.indicators import effective
from ottoai.limits import Allowances, open_limiter
from ottoai.metrics import Metrics
from ottoai.ops.kicks import Kicks
from ottoai.ops.monitor import Clock, Monitor, utc
from ottoai.ops.probes import open_prober
from ottoai.ops.snapshot import Board
from ottoai.ops.watch import open_watch
from ottoai.queue import Queues, open_waker
from ottoai.realtime.bus import open_bus
from ottoai.realtime.hub import open_hub
from ottoai.realtime.quotas import open_quotas
from ottoai.redis_pool import open_redis
from ottoai.vault import Vault
from ottoai.web import cors, edge, keys, middlewares, throttle
from ottoai.web.auth import Revoked, Tokens
from ottoai.web.foreign import Foreign
from ottoai.web.gauges import Gauges
from ottoai.web.health import Health
from ottoai.web.jwks import PACE, Pace, open_keys
from ottoai.web.middlewares import authenticate, observe
from ottoai.web.ops_words import FILTERS
from ottoai.web.routes import ROUTES, add_routes
from ottoai.web.sockets import Sockets
from ottoai.webhooks.receive import Directory, Ingest, from_spool
from ottoai.webhooks.spool import open_spool

log = logging.getLogger(__name__)

MAX_BODY = 1024 * 1024  # bytes; webhooks have a few thousand
RETRY_PRIVILEGE = 1.0  # seconds until an absent database is asked again who we are to it


def build_app(config: Config, pace: Pace = PACE, clock: Clock = utc) -> web.Application:
    """The whole API process as one application. `pace` is that of fetching tokens' keys, `clock` that of the watch."""
    edge.install()
    app = web.Application(
        middlewares=[observe, cors.preflight, throttle.slow_down, authenticate, throttle.limit],
        client_max_size=MAX_BODY,
    )
    app[keys.CONFIG] = config
    app[keys.METRICS] = Metrics(__version__, "api")
    throttle.zero(app[keys.METRICS])
    middlewares.zero(app[keys.METRICS], ((method, path) for method, path, _ in ROUTES))
    revoked = app[keys.REVOKED] = Revoked()
    app[keys.HARDENING] = edge.headers(config)
    app[keys.SOCKETS] = Sockets(revoked)
    app[keys.ALLOWANCES] = Allowances(config)
    app[keys.FAILING] = Failing(config.rate_limit_failures)
    aiohttp_jinja2.setup(app, loader=PackageLoader("ottoai.web"), autoescape=True, filters=FILTERS)
    app.cleanup_ctx.append(partial(resources, pace=pace, clock=clock))
    app.on_response_prepare.append(sign)
    app.on_response_prepare.append(cors.expose)
    app.on_shutdown.append(drain)
    add_routes(app)
    return app


@asynccontextmanager
async def resources(app: web.Application, pace: Pace, clock: Clock) -> AsyncIterator[None]:
    """Everything the handlers use, opened in order and closed in the reverse."""
    config, metrics = app[keys.CONFIG], app[keys.METRICS]
    async with AsyncExitStack() as stack:
        db = app[keys.DB] = await stack.enter_async_context(open_pool(config, metrics))
        client = app[keys.REDIS] = await stack.enter_async_context(open_redis(config))
        token_keys = await stack.enter_async_context(open_keys(config, metrics, pace))
        app[keys.TOKENS] = Tokens(config, app[keys.REVOKED], token_keys)
        bus = app[keys.BUS] = await stack.enter_async_context(open_bus(client, listen=True))
        waker = app[keys.WAKER] = await stack.enter_async_context(open_waker(config))
        hub = app[keys.HUB] = await stack.enter_async_context(open_hub(db, metrics, app[keys.SOCKETS].close, bus))
        app[keys.PROBER] = await stack.enter_async_context(
            open_prober(config.probe_seconds, db, bus, waker, hub, metrics)
        )
        app[keys.QUOTAS] = await stack.enter_async_context(open_quotas(config, client))
        vault = Vault(config.secret_keys)
        ingest = app[keys.INGEST] = Ingest(config, db, bus, waker, vault, Directory(db.system(), vault))
        app[keys.SPOOL] = await stack.enter_async_context(
            open_spool(config.spool_dir, config.spool_max_mb, metrics, partial(from_spool, ingest))
        )
        app[keys.CACHE] = await stack.enter_async_context(
            open_cache(client, db.system(), metrics, config.cache_seconds)
        )
        app[keys.LIMITER] = await stack.enter_async_context(open_limiter(client))
        app[keys.HEALTH] = Health(db, client, metrics)
        foreign = app[keys.FOREIGN] = Foreign(db.system(), metrics, [path for _, path, _ in ROUTES])
        gauges = app[keys.GAUGES] = Gauges(config, metrics, db, client, hub, Queues(queue.client(config)))
        reporter = tally.Reporter(
            config.redis_url, "api", version=__version__, figures=metrics.render, clients=lambda: gauges.clients
        )
        stack.enter_context(reporter)

        async def refresh() -> None:
            await asyncio.gather(gauges.refresh(), app[keys.HEALTH].readiness())

        indicators = effective(config.alert_bounds)
        monitor = app[keys.MONITOR] = Monitor(indicators, client, reporter.snapshot, refresh, metrics, clock)
        watch = app[keys.WATCH] = await stack.enter_async_context(
            open_watch(config, monitor, db.system(), client, metrics)
        )
        app[keys.ALERTS] = watch.alerting

        async def components() -> dict[str, bool]:
            return (await app[keys.HEALTH].readiness()).components

        app[keys.BOARD] = Board(config.environment, monitor, watch, db.system(), client, components, gauges.depths)
        kicks = app[keys.KICKS] = Kicks(client, hub.connections, app[keys.SOCKETS].close)
        checked = asyncio.Event()
        with suppress(StoreUnavailable):
            await refuse_privilege(db)
            checked.set()
            await db.warm()
            await app[keys.REVOKED].refresh(db.system())
            await watch.archive.restore()
        watch_revoked = partial(app[keys.REVOKED].watch, db.system(), hub.revoke)
        check_privilege = partial(_check_privilege, db, checked)
        loops = (gauges.watch_loop, check_privilege, watch_revoked, foreign.run, monitor.run, kicks.run)
        await stack.enter_async_context(running(*loops, *watch.loops))
        stack.push_async_callback(app[keys.BOARD].close)
        stack.push_async_callback(monitor.rest)
        yield


async def sign(request: web.Request, response: web.StreamResponse) -> None:
    """What every answer carries; nobody needs to know which version of what answers."""
    for name, value in request.app[keys.HARDENING].items():
        response.headers.setdefault(name, value)
    if request_id := request.get(keys.REQUEST_ID):
        response.headers["X-Request-Id"] = request_id
    response.headers.update(request.get(keys.RATE_LIMITS, {}))


async def drain(app: web.Application) -> None:
    """Before the process ends: no longer healthy, and every socket is told to come back elsewhere."""
    if app[keys.HEALTH].draining:
        return
    app[keys.HEALTH].draining = True
    app[keys.HUB].wake()
    await app[keys.SOCKETS].drain()


async def _check_privilege(db: Database, checked: asyncio.Event) -> None:
    """When the database was away at the start: check on its return, and end the process if it may do too much."""
    while not checked.is_set():
        await asyncio.sleep(RETRY_PRIVILEGE)
        try:
            await refuse_privilege(db)
            checked.set()
        except StoreUnavailable:
            continue
        except ConfigError as error:
            log.critical("Refusing to run", extra={"detail": error.detail})
            signal.raise_signal(signal.SIGTERM)
            return

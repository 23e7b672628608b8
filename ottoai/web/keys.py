"""Under which keys the application holds its resources."""

import redis.asyncio
from aiohttp import web

from ottoai.cache import Cache
from ottoai.config import Config
from ottoai.db import Database
from ottoai.failing import Failing
from ottoai.limits import Allowances, Limiter
from ottoai.metrics import Metrics
from ottoai.ops.alerting import Alerting
from ottoai.ops.kicks import Kicks
from ottoai.ops.monitor import Monitor
from ottoai.ops.probes import Prober
from ottoai.ops.snapshot import Board
from ottoai.ops.watch import Watch
from ottoai.queue import Waker
from ottoai.realtime.bus import Bus
from ottoai.realtime.hub import Hub
from ottoai.realtime.quotas import Quotas
from ottoai.web.auth import Revoked, Tokens
from ottoai.web.claims import Principal
from ottoai.web.foreign import Foreign
from ottoai.web.gauges import Gauges
from ottoai.web.health import Health
from ottoai.web.sockets import Sockets
from ottoai.webhooks.receive import Ingest
from ottoai.webhooks.spool import Spool

CONFIG = web.AppKey("config", Config)
HARDENING = web.AppKey("hardening", dict[str, str])  # headers of every answer
METRICS = web.AppKey("metrics", Metrics)
DB = web.AppKey("db", Database)
REDIS = web.AppKey("redis", redis.asyncio.Redis)
BUS = web.AppKey("bus", Bus)
WAKER = web.AppKey("waker", Waker)
HUB = web.AppKey("hub", Hub)
QUOTAS = web.AppKey("quotas", Quotas)
ALLOWANCES = web.AppKey("allowances", Allowances)
CACHE = web.AppKey("cache", Cache)
LIMITER = web.AppKey("limiter", Limiter)
FAILING = web.AppKey("failing", Failing)
REVOKED = web.AppKey("revoked", Revoked)
SOCKETS = web.AppKey("sockets", Sockets)
INGEST = web.AppKey("ingest", Ingest)
TOKENS = web.AppKey("tokens", Tokens)
SPOOL: web.AppKey[Spool | None] = web.AppKey("spool")
GAUGES = web.AppKey("gauges", Gauges)
FOREIGN = web.AppKey("foreign", Foreign)
HEALTH = web.AppKey("health", Health)

KICKS = web.AppKey("kicks", Kicks)
MONITOR = web.AppKey("monitor", Monitor)
ALERTS = web.AppKey("alerts", Alerting)
BOARD = web.AppKey("board", Board)
WATCH = web.AppKey("watch", Watch)
PROBER = web.AppKey("prober", Prober)

PRINCIPAL = web.RequestKey("principal", Principal)
REQUEST_ID = web.RequestKey("request_id", str)
RATE_LIMITS = web.RequestKey("rate_limits", dict[str, str])  # header fields of the answer
WAITED = web.RequestKey("waited", float)  # seconds spent waiting because the client wanted so

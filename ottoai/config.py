"""All settings of all processes: one frozen object, read once from the environment.

`Config.load(environ)` reads every field, gathers *all* problems and raises them together. Nothing else in the
code reads the environment. The table in docs/CONFIGURATION.md is generated from the fields below.
"""

import base64
import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from functools import lru_cache
from typing import Any, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ottoai import indicators, rates, weekly
from ottoai.errors import ConfigError
from ottoai.indicators import BoundOverride
from ottoai.rates import Rate, RouteRate

Environment = Literal["development", "test", "staging", "production"]
ENVIRONMENTS: tuple[Environment, ...] = ("development", "test", "staging", "production")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MIN_SECRET_BYTES = 32  # RFC 7518 3.2: an HS256 key is at least as long as the hash.
SECRET_KEY_BYTES = 32  # a Fernet key: half signs, half encrypts
MAX_DRAIN = 20  # seconds; with what follows it, a process ends within 30
MIN_WEBHOOK_SECRET_BYTES = 24  # Standard Webhooks: a signing secret has 24 to 64 bytes.


def _text(raw: str) -> str:
    return raw


def _environment(raw: str) -> Environment:
    for known in ENVIRONMENTS:
        if raw == known:
            return known
    raise ValueError(f"must be one of {', '.join(ENVIRONMENTS)}")


def _url(*schemes: str) -> Callable[[str], str]:
    def parse(raw: str) -> str:
        if urlsplit(raw).scheme not in schemes:
            raise ValueError(f"must be a URL that starts with {' or '.join(s + '://' for s in schemes)}")
        return raw

    return parse


def _guarded_url(raw: str) -> str:
    parts = urlsplit(raw)
    # Who listens on the way has the address and the credentials sent there; who changes the answer's keys can issue
    # tokens.
    here = parts.scheme == "http" and parts.hostname in {"127.0.0.1", "::1", "localhost"}
    if not parts.hostname or not (parts.scheme == "https" or here):
        raise ValueError("must be a URL that starts with https:// (http:// leads to this machine only)")
    return raw


def _zone(raw: str) -> str:
    try:
        return ZoneInfo(raw).key
    except (ZoneInfoNotFoundError, OSError) as error:
        raise ValueError("must be an IANA time zone such as America/New_York") from error


def _origin(raw: str) -> str:
    url = urlsplit(raw)
    if url.scheme not in {"http", "https"} or not url.hostname or url.query or url.fragment:
        raise ValueError("must be a URL such as https://api.example.com, without a query")
    return raw.rstrip("/")


def _secret(raw: str) -> str:
    if len(raw.encode()) < MIN_SECRET_BYTES:
        raise ValueError(f"must be at least {MIN_SECRET_BYTES} bytes long (try: openssl rand -hex 32)")
    return raw


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(raw: str) -> int:
        if not raw.isdecimal() or not low <= int(raw) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(raw)

    return parse


def _flag(raw: str) -> bool:
    if raw.lower() not in {"true", "false"}:
        raise ValueError("must be true or false")
    return raw.lower() == "true"


def _ratio(raw: str) -> float:
    try:
        value = float(raw)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise ValueError("must be a number from 0 to 1")
    return value


def _level(raw: str) -> str:
    if raw.upper() not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
        raise ValueError("must be DEBUG, INFO, WARNING or ERROR")
    return raw.upper()


def _words(raw: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in raw.split(",") if word.strip())


def _origins(raw: str) -> tuple[str, ...]:
    """Origins as browsers send them, since they are compared letter by letter."""
    words = _words(raw)
    for word in words:
        scheme, separator, host = word.partition("://")
        if not scheme or not separator or urlsplit(word).netloc != host or word != word.lower() or "*" in host:
            raise ValueError("must be origins such as https://app.example.com: scheme, host and port, in small letters")
    return words


def _networks(raw: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(word, strict=False) for word in _words(raw))


def _dev_keys(raw: str) -> dict[str, str]:
    pairs = [word.partition(":") for word in _words(raw)]
    if any(not name or not key for name, _, key in pairs):
        raise ValueError("must look like id:key,id:key")
    return {name: key for name, _, key in pairs}


def _webhook_secrets(raw: str) -> tuple[str, ...]:
    secrets = _words(raw)
    if not secrets or not all(_is_webhook_secret(secret) for secret in secrets):
        raise ValueError(
            "must be whsec_ and the base64 of at least 24 bytes, as Clerk shows it; separate several by commas"
        )
    return secrets


def _is_webhook_secret(text: str) -> bool:
    try:
        key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except ValueError:
        return False
    return text.startswith("whsec_") and len(key) >= MIN_WEBHOOK_SECRET_BYTES


def _secret_keys(raw: str) -> tuple[str, ...]:
    keys = _words(raw)
    if not keys or not all(_is_fernet_key(key) for key in keys):
        raise ValueError(
            "must be 32 random bytes in URL-safe base64 (try: openssl rand 32 | base64 | tr +/ -_); separate several "
            "by commas"
        )
    return keys


def _is_fernet_key(text: str) -> bool:
    try:
        return len(base64.urlsafe_b64decode(text)) == SECRET_KEY_BYTES
    except ValueError:
        return False


@lru_cache(1_024)  # the same proxies call all day
def within(address: str, networks: tuple[Network, ...]) -> bool:
    """Whether an address is in one of these networks."""
    return is_address(address) and any(ipaddress.ip_address(address) in network for network in networks)


def is_address(text: str) -> bool:
    """Whether it is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class OpsUser:
    """Who may open the operator pages. `role` is viewer (reads) or operator (also acts)."""

    name: str
    password: str
    role: str


def _ops_users(raw: str) -> tuple[OpsUser, ...]:
    users = [word.split(":") for word in _words(raw)]
    if any(len(user) != 3 or not all(user) or user[2] not in {"viewer", "operator"} for user in users):
        raise ValueError("must look like name:password:viewer,name:password:operator")
    return tuple(OpsUser(*user) for user in users)


def _bounds(raw: str) -> tuple[BoundOverride, ...]:
    return indicators.parse_overrides(_words(raw))


def _hours(raw: str) -> str:
    weekly.parse(raw)
    return raw


def _trace_url(raw: str) -> str:
    if "{trace_id}" not in raw:
        raise ValueError("must hold {trace_id}, such as https://traces.example.com/trace/{trace_id}")
    return _url("https", "http")(raw)


REQUIRED: Any = object()


def setting(env: str, parse: Callable[[str], Any], doc: str, *, default: Any = REQUIRED, secret: bool = False) -> Any:
    """Declare one setting: its variable, how its text becomes a value, what it means, and whether to mask it."""
    metadata = {"env": env, "parse": parse, "doc": doc, "secret": secret, "default": default}
    return field(metadata=metadata, repr=not secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The effective settings of one process."""

    environment: Environment = setting(
        "ENVIRONMENT",
        _environment,
        "Where this runs. Only `development`, which `make run` sets, takes unsigned webhooks, serves `/demo` with its "
        "tokens for anybody, and opens `/ops` to everybody while `OPS_USERS` is unset.",
    )
    database_url: str = setting(
        "DATABASE_URL",
        _url("postgresql", "postgres"),
        "PostgreSQL 16 or later. `migrate` makes the login a member of the roles that the processes act in.",
        secret=True,
    )
    redis_url: str = setting(
        "REDIS_URL", _url("redis", "rediss", "unix"), "Redis 6.2 or later, or Valkey.", secret=True
    )
    jwt_secret: str = setting(
        "JWT_SECRET",
        _secret,
        "Key that HS256 tokens are signed with; at least 32 bytes. Unset: no HS256 token is accepted, and none can be "
        "issued here; then `JWT_JWKS_URL` is required.",
        default="",
        secret=True,
    )
    jwt_jwks_url: str = setting(
        "JWT_JWKS_URL",
        _guarded_url,
        "Where the public keys of RS256 tokens are (a JSON Web Key Set; Clerk's is at "
        "`https://<Frontend API>/.well-known/jwks.json`). Unset: no RS256 token is accepted; then `JWT_SECRET` is "
        "required.",
        default="",
    )
    secret_keys: tuple[str, ...] = setting(
        "SECRET_KEYS",
        _secret_keys,
        "Keys that tenants' provider secrets are encrypted with in the database; the first encrypts, all decrypt. To "
        "rotate, put a new one first, run `python -m ottoai rekey`, then take the old one away.",
        secret=True,
    )
    spool_dir: str = setting(
        "SPOOL_DIR",
        _text,
        "Folder in which webhooks wait while PostgreSQL is away, on a disk that outlives the process. Unset: they are "
        "answered 503.",
        default="",
    )
    spool_max_mb: int = setting(
        "SPOOL_MAX_MB",
        _integer(1, 1_000_000),
        "Megabytes that may wait there; past that they are answered 503.",
        default=256,
    )
    jwt_issuer: str = setting("JWT_ISSUER", _text, "When set, a token's `iss` must be this.", default="")
    jwt_authorized_parties: tuple[str, ...] = setting(
        "JWT_AUTHORIZED_PARTIES", _words, "When set, a token that has `azp` must name one of these.", default=()
    )
    clerk_webhook_secrets: tuple[str, ...] = setting(
        "CLERK_WEBHOOK_SECRET",
        _webhook_secrets,
        "Signing secret of Clerk's webhook endpoint, `whsec_…`; give a new one beside the old, with a comma, to "
        "rotate. Unset: there is no `/clerk/webhook`.",
        default=(),
        secret=True,
    )
    tenant_timezone: str = setting(
        "TENANT_TIMEZONE",
        _zone,
        "Time zone of the tenants that Clerk's webhooks create, since Clerk knows none; `tenant set --timezone` gives "
        "a tenant its own.",
        default="America/New_York",
    )
    callrail_api_url: str = setting(
        "CALLRAIL_API_URL",
        _guarded_url,
        "Where CallRail's API is asked for calls that no webhook told of; tokens are sent there.",
        default="https://api.callrail.com",
    )
    twilio_api_url: str = setting(
        "TWILIO_API_URL",
        _guarded_url,
        "Where Twilio's API takes texts; auth tokens are sent there.",
        default="https://api.twilio.com",
    )
    idle_seconds: int = setting(
        "IDLE_SECONDS",
        _integer(1, 3600),
        "How long a connection may be without a finished request: idle, in the middle of its headers, or of a body. "
        "More than what stands in front keeps idle connections for, or it now and then uses one that just ended.",
        default=75,
    )
    host: str = setting("HOST", _text, "Address the API and the RQ dashboard listen on.", default="127.0.0.1")
    port: int = setting("PORT", _integer(1, 65535), "Port of the API.", default=8080)
    dashboard_port: int = setting("DASHBOARD_PORT", _integer(1, 65535), "Port of the RQ dashboard.", default=8081)
    ops_users: tuple[OpsUser, ...] = setting(
        "OPS_USERS",
        _ops_users,
        "Who may open the operator pages: `name:password:role,…`, role `viewer` or `operator`. "
        "The RQ dashboard lets operators in, and starts only when there is one.",
        default=(),
        secret=True,
    )
    dev_keys: dict[str, str] = setting(
        "DEV_KEYS",
        _dev_keys,
        "Keys for `/ws/test-emit`: `id:key,id:key`; give a new one beside the old to rotate. "
        "Unset: `dev` in development, none elsewhere.",
        default={},
        secret=True,
    )
    metrics_token: str = setting(
        "METRICS_TOKEN",
        _text,
        "When set, /metrics wants it as a bearer token, and /internal/worker/heartbeat tells hosts and jobs to nobody "
        "who does not send it.",
        default="",
        secret=True,
    )
    metrics_port: int = setting(
        "METRICS_PORT",
        _integer(0, 65535),
        "A second port of the API where /metrics wants no token: for a scraper that has none, such as Fly's. Only a "
        "private network may lead there. 0: none.",
        default=0,
    )
    allowed_origins: tuple[str, ...] = setting(
        "ALLOWED_ORIGINS",
        _origins,
        "Origins, such as `https://app.example.com`, whose pages may open the WebSocket and call the API (CORS). "
        "Unset: pages of the API's own origin only.",
        default=(),
    )
    trusted_proxies: tuple[Network, ...] = setting(
        "TRUSTED_PROXIES",
        _networks,
        "Networks whose `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Forwarded-Host` are believed, and whose "
        "`traceparent` says which trace a request belongs to.",
        default=(),
    )
    public_url: str = setting(
        "PUBLIC_URL",
        _origin,
        "Where providers reach the API, such as `https://api.example.com`: Twilio signs the address that it calls. "
        "Unset: what the request itself says, and trusted proxies say of it.",
        default="",
    )
    drain_seconds: int = setting(
        "DRAIN_SECONDS",
        _integer(0, MAX_DRAIN),
        "How long an API process that is told to stop goes on answering at least, while /health says 503: longer than "
        "the load balancer takes to notice. Without a load balancer, 0.",
        default=0,
    )
    log_level: str = setting("LOG_LEVEL", _level, "DEBUG, INFO, WARNING or ERROR.", default="INFO")
    db_pool_size: int = setting(
        "DB_POOL_SIZE", _integer(1, 100), "Most connections a process opens for tenants' queries.", default=10
    )
    cache_seconds: int = setting(
        "CACHE_SECONDS",
        _integer(0, 3600),
        "How long pages of lists are kept in Redis. They are never out of date; 0 reads all from PostgreSQL.",
        default=60,
    )
    ws_connections_per_user: int = setting(
        "WS_CONNECTIONS_PER_USER",
        _integer(1, 100_000),
        "Most live connections (WebSockets, event streams, waiting polls) of a user, over all API processes.",
        default=20,
    )
    ws_connections_per_tenant: int = setting(
        "WS_CONNECTIONS_PER_TENANT",
        _integer(1, 1_000_000),
        "Most live connections of a tenant's users together, over all API processes.",
        default=2000,
    )
    ws_subscriptions_per_connection: int = setting(
        "WS_SUBSCRIPTIONS_PER_CONNECTION", _integer(1, 10_000), "Most channels a WebSocket may listen to.", default=100
    )
    ws_messages_per_minute: int = setting(
        "WS_MESSAGES_PER_MINUTE", _integer(1, 100_000), "Most messages a WebSocket may send in a minute.", default=100
    )
    rate_limit_user: Rate = setting(
        "RATE_LIMIT_USER",
        rates.parse,
        "Most requests of a user to /api, over all API processes: so many in a `second`, `minute`, `hour` or `day`.",
        default=Rate(60, "minute"),
    )
    rate_limit_tenant: Rate = setting(
        "RATE_LIMIT_TENANT",
        rates.parse,
        "Most requests of a tenant's users together to /api.",
        default=Rate(600, "minute"),
    )
    # 20 waiting polls, as many as a user may have open, come back 48 times a minute, and more often when events come.
    rate_limit_live_user: Rate = setting(
        "RATE_LIMIT_LIVE_USER",
        rates.parse,
        "Most long polls and event streams that a user begins; they are counted apart from the rest of /api.",
        default=Rate(300, "minute"),
    )
    # The 2,000 waiting polls that a tenant may have open come back 4,800 times a minute.
    rate_limit_live_tenant: Rate = setting(
        "RATE_LIMIT_LIVE_TENANT",
        rates.parse,
        "Most long polls and event streams that a tenant's users begin together.",
        default=Rate(6000, "minute"),
    )
    rate_limit_routes: tuple[RouteRate, ...] = setting(
        "RATE_LIMIT_ROUTES",
        rates.parse_routes,
        "Routes with an allowance of their own for each user, in place of the user's: "
        "`GET /api/calls=120/minute,GET /api/leads/{id}=10/second`. The tenant's counts them still.",
        default=(),
    )
    rate_limit_failures: Rate = setting(
        "RATE_LIMIT_FAILURES",
        rates.parse,
        "Most failures (401, 404, a wrong `X-Dev-Key`) of one client address, for each API process; then it is refused "
        "what needs a valid token, password or key and comes without.",
        default=Rate(120, "minute"),
    )
    rate_limit_shadow: bool = setting(
        "RATE_LIMIT_SHADOW",
        _flag,
        "`true`: limits are counted and logged, and nothing is refused. For trying new ones.",
        default=False,
    )
    worker_lease_seconds: int = setting(
        "WORKER_LEASE_SECONDS",
        _integer(2, 600),
        "How long a worker may be silent before another takes its jobs over; it renews its hold meanwhile.",
        default=15,
    )
    worker_concurrency: int = setting(
        "WORKER_CONCURRENCY",
        _integer(1, 1000),
        "Most jobs that a worker runs at a time; of not urgent ones three quarters as many, of `bulk` half as many.",
        default=20,
    )
    worker_memory_mb: int = setting(
        "WORKER_MEMORY_MB",
        _integer(0, 1_000_000),
        "Megabytes of resident memory past which a worker ends what it runs and exits 0, for its supervisor to start a "
        "fresh one. 0: never.",
        default=256,
    )
    event_retention_days: int = setting(
        "EVENT_RETENTION_DAYS", _integer(1, 3650), "Days that events can be replayed.", default=30
    )
    payload_retention_days: int = setting(
        "PAYLOAD_RETENTION_DAYS", _integer(1, 3650), "Days that raw webhook bodies are kept.", default=30
    )
    idempotency_ttl_days: int = setting(
        "IDEMPOTENCY_TTL_DAYS", _integer(30, 3650), "Days that a delivery is known as a duplicate.", default=395
    )
    business_hours: str = setting(
        "BUSINESS_HOURS",
        _hours,
        "When people are expected to be connected, in `TENANT_TIMEZONE`: `always`, or spans such as "
        "`Mon-Fri 09:00-17:00, Sat 10:00-12:00`; `24:00` is midnight. Outside of them nobody is woken "
        "because nobody is connected.",
        default="Mon-Fri 09:00-17:00",
    )
    alert_webhook_url: str = setting(
        "ALERT_WEBHOOK_URL",
        _guarded_url,
        "Where alerts are told, in Slack's format (an incoming webhook of Slack's, Mattermost's, …), by https: the "
        "address is a secret. Unset: on /ops and in the log only.",
        default="",
        secret=True,
    )
    heartbeat_url: str = setting(
        "HEARTBEAT_URL",
        _guarded_url,
        "Called every minute by https while this software watches itself, for a service outside that tells when the "
        "calls stop.",
        default="",
        secret=True,
    )
    alert_bounds: tuple[BoundOverride, ...] = setting(
        "ALERT_BOUNDS",
        _bounds,
        "Other bounds than those of the indicators' table: `http_p95.warning=0.8` (in the indicator's unit: seconds, "
        "share, bytes), with `/120s` for how long, `off` for none; several separated by commas.",
        default=(),
    )
    probe_seconds: int = setting(
        "PROBE_SECONDS",
        _integer(0, 3600),
        "How often each API process sends itself an event and a job through the whole path. 0: never.",
        default=15,
    )
    slow_query_ms: int = setting(
        "SLOW_QUERY_MS", _integer(1, 60_000), "Queries that take longer are logged and counted.", default=200
    )
    request_log_ratio: float = setting(
        "REQUEST_LOG_RATIO",
        _ratio,
        "Share of the `Request answered` lines that is written, from 0 to 1, chosen by trace; failures, and what took "
        "over a second, always are.",
        default=1.0,
    )
    trace_url: str = setting(
        "TRACE_URL",
        _trace_url,
        "Where a trace can be looked at, with `{trace_id}` in it; /ops links there. Unset: /ops shows ids only.",
        default="",
    )
    otel_endpoint: str = setting(
        "OTEL_EXPORTER_OTLP_ENDPOINT", _text, "Where traces go (OTLP over HTTP). Unset: none are recorded.", default=""
    )
    otel_ratio: float = setting(
        "OTEL_TRACES_SAMPLER_ARG", _ratio, "Share of traces that is recorded, from 0 to 1.", default=0.1
    )

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> Self:
        """Read every setting. Raises ConfigError naming every problem, never only the first."""
        values: dict[str, Any] = {}
        problems: list[str] = []
        for declared in fields(cls):
            meta = declared.metadata
            raw = environ.get(meta["env"], "").strip()
            if not raw:
                if meta["default"] is REQUIRED:
                    problems.append(f"{meta['env']} is not set. {meta['doc']}")
                values[declared.name] = meta["default"]
                continue
            try:
                values[declared.name] = meta["parse"](raw)
            except ValueError as error:
                problems.append(f"{meta['env']} {error}")
        if not environ.get("JWT_SECRET", "").strip() and not environ.get("JWT_JWKS_URL", "").strip():
            problems.append("JWT_SECRET is not set, nor is JWT_JWKS_URL: with neither of them no token could count.")
        if problems:
            raise ConfigError(problems)
        return cls(**values)

    @property
    def development(self) -> bool:
        """Whether the conveniences of a developer's machine are on."""
        return self.environment == "development"

    @property
    def test_emit_keys(self) -> dict[str, str]:
        """Keys that open /ws/test-emit, by id: none in production, `dev` in development when none are given."""
        if self.environment == "production":
            return {}
        return self.dev_keys or ({"dev": "dev"} if self.development else {})

    def masked(self) -> list[tuple[str, str]]:
        """(variable, value) of every setting, with secrets masked, for `python -m ottoai config`."""
        return [(f.metadata["env"], _shown(f, getattr(self, f.name))) for f in fields(self)]


def _shown(declared: Field[Any], value: Any) -> str:
    if declared.metadata["secret"]:
        return "********" if value else ""
    if isinstance(value, tuple):
        return ",".join(str(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def table() -> str:
    """The settings as a Markdown table, for the docs."""
    rows = ["| Variable | Default | Meaning |", "|---|---|---|"]
    for declared in fields(Config):
        meta = declared.metadata
        default = meta["default"]
        given = str(default).lower() if isinstance(default, bool) else default
        shown = "**required**" if default is REQUIRED else f"`{given}`" if default not in ("", (), {}) else "unset"
        rows.append(f"| `{meta['env']}` | {shown} | {meta['doc']} |")
    return "\n".join(rows) + "\n"

"""The RQ dashboard behind a password, in a process of its own: a tool for operators, on loopback or a private address.

It is never mounted in the API: its pages need inline scripts and eval, and it shows what is in Redis unescaped. Here it
gets what it lacks: passwords on every path, protection from other sites' pages, and a Redis URL that it cannot tell.
The server is werkzeug's, threaded: it came with the dashboard, and a handful of operators is all that it serves.
"""

import hmac
import ipaddress
import logging
import signal
import socket
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import psutil
import redis
import rq
import rq_dashboard.web
from flask import Flask, Request, Response, abort, request
from rq.serializers import JSONSerializer
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from ottoai.config import Config, OpsUser, is_address
from ottoai.errors import ConfigError
from ottoai.queue import client

log = logging.getLogger(__name__)

IDLE_TIMEOUT = 10  # seconds that a connection may say nothing before its thread is taken back
PATIENCE = 5.0  # seconds for a reply of Redis: the dashboard walks long lists, and nobody waits but who asked
HEADERS = {
    # The dashboard's scripts are inline and its templates are compiled by eval; nothing is fetched from elsewhere.
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class _Worker(rq.Worker):
    """What the dashboard reads workers with. RQ's own expects pickles and sets the pool's patience to 415 seconds."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "serializer": JSONSerializer})

    def _set_connection(self, connection: redis.Redis) -> redis.Redis:
        return connection


def make_app(config: Config) -> Flask:
    """The dashboard with its guards. Raises ConfigError when nobody may open it."""
    operators = [user for user in config.ops_users if user.role == "operator"]
    if not operators:
        raise ConfigError(
            ["OPS_USERS names no operator (name:password:operator), and the RQ dashboard admits nobody else"]
        )
    _adapt()
    # Its page template asks for the application's static files too, and means its own.
    app = Flask("dashboard", static_folder=rq_dashboard.web.blueprint.static_folder, static_url_path="/static")
    app.config["RQ_DASHBOARD_REDIS_URL"] = ("redis",)  # all that its pages get to know of it
    app.redis_conn = client(config, patience=PATIENCE)  # type: ignore[attr-defined]
    app.before_request(lambda: guard(request, operators))
    app.after_request(_harden)
    app.register_error_handler(Exception, _failed)
    app.register_blueprint(rq_dashboard.web.blueprint)
    return app


def _adapt() -> None:
    """Make the dashboard's module use our client, JSON and patience, where it has no settings for them."""
    module = rq_dashboard.web
    module.config.serializer = JSONSerializer
    module.Worker = _Worker
    hooks = module.blueprint.before_request_funcs.get(None, [])
    if module.push_rq_connection in hooks:  # opens another Redis connection for each request
        hooks.remove(module.push_rq_connection)


def guard(asked: Request, operators: Sequence[OpsUser]) -> Response | None:
    """Let an operator's own request pass; the answer to any other."""
    if not _is_operator(asked, operators):
        if asked.authorization is not None:
            # Without the name: it may be a password, typed into the wrong field.
            log.warning("Operator sign-in refused", extra={"ip": asked.remote_addr})
        return Response("Operators only.\n", 401, {"WWW-Authenticate": 'Basic realm="RQ dashboard", charset="UTF-8"'})
    if (asked.view_args or {}).get("instance_number"):
        abort(404)  # there is one Redis
    reads = asked.method in ("GET", "HEAD")
    if reads and asked.path.startswith("/requeue/"):
        abort(405)  # the dashboard's one GET that changes something
    if not _is_own(asked) and not (reads and asked.headers.get("Sec-Fetch-Mode") == "navigate"):
        abort(403)
    return None


def _is_operator(asked: Request, operators: Sequence[OpsUser]) -> bool:
    given = asked.authorization
    if given is None or given.type != "basic":
        return False
    name, password = (given.username or "").encode(), (given.password or "").encode()
    # Every comparison is made, whatever the others say: the time tells nothing.
    matches = [
        hmac.compare_digest(name, user.name.encode()) & hmac.compare_digest(password, user.password.encode())
        for user in operators
    ]
    return any(matches)


def _is_own(asked: Request) -> bool:
    """Whether no other site's page caused this request. Browsers say so, in one of two headers."""
    site = asked.headers.get("Sec-Fetch-Site")
    origin = asked.headers.get("Origin")
    if site is not None:
        return site == "same-origin" or (site == "none" and asked.method in ("GET", "HEAD"))
    if origin is not None:
        return urlsplit(origin).netloc == asked.host
    return asked.method in ("GET", "HEAD")  # curl reads; what changes something has to name its origin


def _harden(response: Response) -> Response:
    response.headers.update(HEADERS)
    return response


def _failed(error: Exception) -> Response:
    """The edge of the process: say what can be said, log the rest."""
    status = getattr(error, "code", None)
    if isinstance(status, int):
        return Response(f"{getattr(error, 'name', 'Error')}\n", status, mimetype="text/plain")
    if isinstance(error, redis.ConnectionError | redis.TimeoutError | OSError):
        return Response("Redis does not answer; try again shortly.\n", 503, mimetype="text/plain")
    if isinstance(error, rq.exceptions.NoSuchJobError):
        return Response("There is no such job: it may be done.\n", 404, mimetype="text/plain")
    log.error("The dashboard failed", exc_info=error)
    return Response("Internal error\n", 500, mimetype="text/plain")


class _Handler(WSGIRequestHandler):
    """One connection: does not wait for ever, does not say what it is made of, logs through logging."""

    timeout = IDLE_TIMEOUT
    server_version = "dashboard"
    sys_version = ""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:  # noqa: ARG002
        log.debug("Dashboard request", extra={"method": self.command, "status": str(code)})

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002, ARG002 - theirs
        log.debug(message, *args)


def private(host: str) -> str:
    """The address that a host's name stands for. Raises ConfigError when it leads the whole world here, OSError when it
    leads nowhere.
    """
    address = ipaddress.ip_address(str(socket.getaddrinfo(host, None)[0][4][0]))
    meant = [address] if not address.is_unspecified else _own(6 if address.version == 6 else 4)
    if public := [str(each) for each in meant if each.is_global]:
        raise ConfigError([f"HOST is {host}: the RQ dashboard is for private addresses, and {public[0]} is public"])
    return str(address)


def _own(version: int) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """This machine's addresses that are listened on for 0.0.0.0, or for ::, which means those of both kinds."""
    found = [given.address.partition("%")[0] for each in psutil.net_if_addrs().values() for given in each]
    addresses = [ipaddress.ip_address(text) for text in found if is_address(text)]
    return [address for address in addresses if address.version <= version]


def make(config: Config) -> BaseWSGIServer:
    """The server, bound but not yet serving. Raises ConfigError, OSError."""
    app, host = make_app(config), private(config.host)
    return make_server(host, config.dashboard_port, app, threaded=True, request_handler=_Handler)


def serve(config: Config) -> None:
    """Be the dashboard process until SIGTERM or SIGINT."""
    server = make(config)

    def stop(_number: int, _frame: FrameType | None) -> None:
        # shutdown() waits for serve_forever(), which this handler has interrupted.
        threading.Thread(target=server.shutdown, daemon=True).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    log.info("Dashboard started", extra={"host": config.host, "port": config.dashboard_port})
    with server:
        server.serve_forever(poll_interval=0.2)
    log.info("Dashboard stopped")

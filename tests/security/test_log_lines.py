"""Everybody's words on their way into the log of a running process, and the patterns that look for secrets there."""

import importlib
import json
import os
import pkgutil
import re
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from aiohttp import ClientSession

import jobs
import ottoai
from ottoai.embedded.folder import any_port
from tests.conftest import GENEROUS, SECRET, SECRET_KEY
from tests.e2e.conftest import eventually, process
from tests.helpers import deliver, get, report

FORGED = '"}\r\n{"level":"CRITICAL","message":"forged"}\n\x1b[2J\x85\u2028\u2029'
HEADER = FORGED.translate(dict.fromkeys(map(ord, "\r\n\x1b")))  # others are refused unread, which is tried as well
USER = 'é","level":"CRITICAL","x":"'  # of a genuine token: it stands on every line of a request
NAMES = ("User-Agent", "X-Request-Id", "traceparent", "X-Forwarded-For", "Idempotency-Key", "Last-Event-ID", "Origin")
PATHS = ("/{}", "/nobody/{}", "/call-rail/{}", "/call-rail/pre-call/{}", "/api/calls/{}", "/api/calls?cursor={}",
         "/api/events/stream?channel={}", "/ws?token={}", "/ops?{}")  # fmt: skip


async def test_each_line_of_a_running_process_stays_one_object(config, demo, make_token, tmp_path):
    port = any_port()
    base, output, token = f"http://127.0.0.1:{port}", tmp_path / "api.log", make_token(user=USER)
    settings = {"DATABASE_URL": config.database_url, "REDIS_URL": config.redis_url, "PORT": str(port),
                "JWT_SECRET": SECRET, "SECRET_KEYS": SECRET_KEY, "ENVIRONMENT": "development", "PROBE_SECONDS": "0",
                "SPOOL_DIR": str(tmp_path / "spool"), "LOG_LEVEL": "DEBUG", **GENEROUS}  # fmt: skip
    with process(["ottoai", "api"], {"PATH": os.environ["PATH"], **settings}, output):
        await eventually(lambda: b"API listening" in output.read_bytes(), 30)
        for path in PATHS:
            for method in ("GET", "POST"):
                for value in (HEADER, FORGED):
                    _ask(port, f"{method} {path.format(quote(FORGED))}", token, value)
        for fields in ({"customer_name": FORGED}, {"id": FORGED}, {"company_id": FORGED}, {"start_time": FORGED}):
            await deliver(base, "call-complete", report("call-complete") | fields)
        async with (
            ClientSession(headers={"Authorization": f"Bearer {token}"}) as session,
            session.ws_connect(f"{base}/ws") as live,
        ):
            for kind, channel in (("subscribe", FORGED), ("unsubscribe", FORGED), (FORGED, "")):
                await live.send_json({"type": kind, "channel": channel})
                await live.receive(10)
        await get(base, "/api/calls", token)
    lines = output.read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert len(lines) > 40
    assert [line for line in lines if json.loads(line).get("user_id") == USER]
    for line in lines:
        assert all(0x20 <= byte < 0x7F for byte in line), line
        assert json.loads(line)["level"] != "CRITICAL", line


def _ask(port: int, line: str, token: str, value: str) -> None:
    headers = "".join(f"{name}: {value}\r\n" for name in NAMES)
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(
            f"{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n{headers}"
            "Content-Length: 0\r\n\r\n".encode()
        )
        assert client.recv(1)


SEEDS = ("a", "1", "://a:", "eyJ", "eyJaaaa.", "bearer ", "token=", "+1", "%2b", "/a", "a-", "1.", 'a="',
         'a{a="\\', "{company", "a\n", " ", "\\", "Mon-", "(")  # fmt: skip
LONGEST = 8_000  # a line of a request's head; what is longer is cut, or read by patterns of one pass


def test_no_pattern_takes_ages():
    """One that went back over all it had read, again and again, would never come to the end of this."""
    patterns = set(_patterns())
    assert len(patterns) > 20
    for pattern in patterns:
        for seed in SEEDS:
            text = (seed * LONGEST)[:LONGEST] + "\x00"
            for look in (pattern.match, pattern.fullmatch, pattern.search):
                look(text)


def _patterns() -> Iterator[re.Pattern[str]]:
    for package in (ottoai, jobs):
        for each in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not each.name.endswith("__main__"):
                yield from _within(vars(importlib.import_module(each.name)).values())


def _within(values: Any) -> Iterator[re.Pattern[str]]:
    for value in values:
        if isinstance(value, re.Pattern):
            yield value
        elif isinstance(value, str) and value.startswith("^"):  # of domain/patterns.py
            yield re.compile(value)
        elif isinstance(value, tuple):
            yield from _within(value)

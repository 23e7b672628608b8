"""The banner of `make run`: printed once, when the API is ready. What a newcomer needs next."""

import os
import shlex
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

from ottoai.config import Config
from ottoai.dev.supervisor import Supervisor
from ottoai.embedded import DEFAULT_DATA_DIR

READY_SECONDS = 60.0  # after this we say that it takes long, and go on waiting
PROBE_SECONDS = 2.0  # /ready itself answers within one
PROBE_PAUSE = 0.1
RULE = "─" * 78


class Greeting:
    """Prints a text once the API is ready, and says once when that takes long."""

    def __init__(self, config: Config, text: str) -> None:
        self._text = text
        self._ready = threading.Event()
        self._deadline = time.monotonic() + READY_SECONDS
        threading.Thread(target=_wait_until_ready, args=(base(config), self._ready), daemon=True).start()
        self._done = False

    def tick(self, supervisor: Supervisor) -> None:
        """Called between the lines of output, so that the text is not torn apart."""
        if self._done:
            return
        if self._ready.is_set():
            self._done = True
            supervisor.show(self._text)
        elif time.monotonic() > self._deadline:
            self._deadline = float("inf")
            supervisor.say(f"not ready after {READY_SECONDS:.0f} s; the lines above may say why. Still waiting.")


def _wait_until_ready(address: str, ready: threading.Event) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy has no business on loopback
    while not ready.is_set():
        try:
            with opener.open(f"http://{address}/ready", timeout=PROBE_SECONDS):
                ready.set()
        except (OSError, HTTPException):  # not listening yet, or 503, or half an answer
            time.sleep(PROBE_PAUSE)


def base(config: Config) -> str:
    """Host and port to reach the API by; one that listens everywhere is reached by loopback."""
    return f"{_reachable(config.host)}:{config.port}"


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104 - compared, not bound


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def banner(config: Config, data_dir: Path, users: str, notes: Sequence[str]) -> str:
    """The text. `users` tells who may open the operators' page."""
    api = base(config)
    folder = shlex.quote(_short(data_dir))
    options = "" if folder == DEFAULT_DATA_DIR else f"DATA_DIR={folder} "
    python = shlex.quote(_short(Path(sys.executable)))
    return "\n".join(
        [
            RULE,
            f"OttoAI is ready         http://{api}/ready",
            f"  See it work           http://{api}/demo",
            f"  Operators' page       http://{api}/ops   ({users})",
            f"  RQ dashboard          http://{_reachable(config.host)}:{config.dashboard_port}/   (the same user)",
            f"  Metrics               http://{api}/metrics",
            f"  WebSocket             ws://{api}/ws",
            "",
            f"Get a token             {options}{python} -m ottoai token --org demo --user me",
            f"Send a webhook          curl -X POST http://{api}/call-rail/pre-call \\",
            """                          -H 'Content-Type: application/json' -d '{"call": {"id": "test-123"}}'""",
            f"See a missed call       {options}make demo",
            f"Look into the stores    . {folder}/env   then: psql $DATABASE_URL",
            "                                        or: redis-cli -u $REDIS_URL ping",
            f"Stop                    Ctrl-C (the data stays in {folder})",
            *(f"Note: {note}" for note in notes),
            RULE,
        ]
    )

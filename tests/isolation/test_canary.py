"""The watch over all output of a test run notices a leak, wherever it is, and the run fails with it."""

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import redis

from tests import canary
from tests.canary import RECORDING_KEY, Watch
from tests.conftest import SECRET, SIGNING_KEY

ROOT = Path(__file__).parents[2]
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0xxxx.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    "leak",
    [
        "+12125550142", "12125550142", "2125550142", "212-555-0142", "(212) 555-0142", "%2B12125550142",
        "+442079460123",
        TOKEN, RECORDING_KEY, SIGNING_KEY.format("demo"), "demo-signing-key", SECRET, "canary-secret-x",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    ],
)  # fmt: skip
def test_a_leak_is_seen(leak):
    watch = Watch()
    watch.saw("somewhere", f'{{"message":"about {leak}, yes"}}')
    assert [where for where, _ in watch.leaks] == ["somewhere"]


@pytest.mark.parametrize(
    "harmless",
    [
        "[phone]", "0b9f4c36-7a3e-4f3b-8f0e-212555014200", "ff2125550142ff", "1795468818.41", "912125550142", "token",
        "1.2125550142", "2125550142.5",
    ],
)  # fmt: skip
def test_what_is_none_is_not(harmless):
    watch = Watch()
    watch.saw("somewhere", f'"{harmless}"')
    assert watch.leaks == {}


def test_redis_is_searched(redis_url, monkeypatch):
    """Keys, and values of every type; phones in what jobs are told alone."""
    watch = Watch()
    monkeypatch.setattr(canary, "watch", watch)
    with closing(redis.Redis.from_url(redis_url)) as client:
        client.set("a", TOKEN)
        client.hset("b", "field", SECRET)
        client.rpush("c", RECORDING_KEY)
        client.sadd("d", "canary-secret-d")
        client.zadd("e", {"canary-secret-e": 1})
        client.xadd("f", {"x": "canary-secret-f"})
        client.set("canary-secret-g", 1)
        client.hset("rq:job:1", "data", "+12125550142")
        client.set("cache:demo", "+12125550142")
        canary.of_redis(redis_url)
        client.flushall()
    assert len(watch.leaks) == 8


LEAKS = {
    "log": "import logging\ndef test(): logging.getLogger('ottoai.x').info('called %s', '212-555-0142')",
    "log of a library": "import logging\ndef test(): logging.getLogger('lib').warning('GET ?k=%s', 'canary-secret-k')",
    "metrics": """
from ottoai.metrics import Metrics
def test():
    figures = Metrics('1', 'api')
    figures.cross_tenant_access_attempts_total.inc(route='/x/+12125550142')
    figures.render()
""",
    "a process": """
import pathlib, subprocess, sys
from tests.canary import watch
def test(tmp_path):
    out = tmp_path / 'output'
    watch.file(out)
    with out.open('wb') as file:
        subprocess.run([sys.executable, '-c', 'print(\"12125550142\")'], stdout=file, check=True)
""",
    "": "import logging\ndef test(): logging.getLogger('ottoai.x').info('called %s', '+12125550142')",  # redacted: none
}


@pytest.mark.parametrize("where", LEAKS)
def test_a_run_in_which_something_leaks_fails(tmp_path, where):
    (tmp_path / "test_it.py").write_text(LEAKS[where])
    words = [sys.executable, "-m", "pytest", "-q", "-p", "tests.canary", "-c", os.devnull, "--rootdir", str(tmp_path)]
    done = subprocess.run(
        [*words, "-p", "no:cacheprovider", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == (1 if where else 0), done.stdout
    assert ("what must never be written down" in done.stdout) is bool(where)

"""The rate limits of real api processes: one allowance for all, and the log line that operators grep for."""

import asyncio
import json
from collections import Counter
from contextlib import ExitStack
from datetime import timedelta

import pytest

from ottoai import embedded
from ottoai.config import Config
from ottoai.web.auth import issue
from tests.conftest import GENEROUS, SECRET, SECRET_KEY
from tests.e2e.conftest import TOOLS, eventually
from tests.e2e.test_outage import add_demo, another_api
from tests.helpers import get

ATTEMPTS = 5  # each by another user: on a busy machine Redis may answer late, and then each process decides by itself
LATE, BACK = "Redis does not answer; rate limits", "Redis answers; rate limits"


@pytest.mark.timeout(120)
async def test_two_processes_grant_exactly_what_the_limit_says(database_url, tmp_path):
    def lines():
        return [json.loads(line) for path in tmp_path.glob("api-*") for line in path.read_text().splitlines()]

    def told(beginning):
        return sum(line["message"].startswith(beginning) for line in lines())

    with ExitStack() as stack:
        store = stack.enter_context(embedded.redis(tmp_path))
        own = {"ENVIRONMENT": "test", "JWT_SECRET": SECRET, "SECRET_KEYS": SECRET_KEY, "RATE_LIMIT_USER": "100/day"}
        stores = {"DATABASE_URL": database_url, "REDIS_URL": store.url}
        environ = TOOLS | stores | GENEROUS | own
        add_demo(environ)
        config = Config.load(environ)
        async with another_api(environ, tmp_path) as one, another_api(environ, tmp_path) as two:
            for attempt in range(ATTEMPTS):
                await eventually(lambda: told(LATE) == told(BACK), 30)  # else one of them decides by itself
                before, user = told(LATE), f"user-{attempt}"
                token = issue(config, "demo", user, "member", timedelta(minutes=10))
                calls = [get((one, two)[n % 2], "/api/calls", token) for n in range(300)]
                found = Counter(status for status, _, _ in await asyncio.gather(*calls))
                if told(LATE) == before:
                    break
        assert found == {200: 100, 429: 200}
        hits = [line for line in lines() if line["message"] == "Rate limit hit: user" and line["user_id"] == user]
        assert len(hits) == 200
        expected = {
            "level": "WARNING", "event_type": "rate_limit_hit", "limit_type": "user", "tenant_id": "demo",
            "user_id": user, "route": "/api/calls",
        }  # fmt: skip
        assert all(line.items() >= expected.items() for line in hits)

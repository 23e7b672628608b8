"""A watch for each test, with the settings that its marker names."""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest

from ottoai import embedded
from ottoai.config import Config
from ottoai.domain.roles import Role
from ottoai.web.auth import issue
from tests.conftest import make_config
from tests.watch import Watch, watching


@pytest.fixture
def overrides(request: pytest.FixtureRequest, tmp_path) -> dict[str, str]:
    """Settings of the test's marker `configured`; {tmp} is a folder of its own."""
    marker = request.node.get_closest_marker("configured")
    given = {name: value.format(tmp=tmp_path) for name, value in (marker.kwargs if marker else {}).items()}
    return {"BUSINESS_HOURS": "always", **given}


@pytest.fixture
def config(database_url: str, redis_url: str, overrides: dict[str, str]) -> Config:
    return make_config(database_url, redis_url, **overrides)


@pytest.fixture
async def watch(config: Config, demo: str) -> AsyncIterator[Watch]:
    async with watching(config) as made:
        await made.look(0)
        yield made


@pytest.fixture
def token(config: Config) -> str:
    return issue(config, "demo", "ann", Role.MEMBER, timedelta(hours=1))


@pytest.fixture
def users(config: Config) -> Callable[[int], list[str]]:
    """So many tokens, each of another user."""
    return lambda count: [
        issue(config, "demo", f"user-{number}", Role.MEMBER, timedelta(hours=1)) for number in range(count)
    ]


@pytest.fixture
def redis_client(redis_server: embedded.RedisServer) -> Any:
    import redis

    with redis.Redis.from_url(redis_server.url) as client:
        yield client

"""schemathesis against the API: whatever is asked, in the ways that /openapi.json allows and in those that it does not,
the answer is one that it declares, with the body, the headers and the type of content that it declares.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from threading import Thread
from typing import Any

import msgspec
import pytest
import schemathesis
from aiohttp import web
from hypothesis import settings
from hypothesis import strategies as st
from schemathesis.config import SchemathesisConfig

from ottoai import embedded
from ottoai.app import build_app
from ottoai.config import Config
from ottoai.db import open_pool
from ottoai.domain import events
from ottoai.domain.roles import Role
from ottoai.metrics import Metrics
from ottoai.web import keys, openapi
from ottoai.web.auth import issue
from tests.conftest import add_tenant, execute, make_config, on_database
from tests.isolation.canaries import BY_SYSTEM, A, insert, rows


def strict(document: dict[str, Any]) -> dict[str, Any]:
    """The document, with answers that have no fields but those it names: clients are told to ignore others, but there
    should be none.
    """
    for schema in document["components"]["schemas"].values():
        if "properties" in schema:
            schema["additionalProperties"] = False
    return document


DOCUMENT = strict(msgspec.json.decode(openapi.encoded()))
NOWHERE = make_config("postgresql://not.used/here", "redis://not.used")
TOKEN = issue(NOWHERE, A.id, A.user, Role.MANAGER, timedelta(days=1))
EXAMPLES = 10
WALKS = 5

schemathesis.openapi.format("phone", st.sampled_from([A.phone, "(212) 555-0161", "+44 20 7946 0958"]))
schemathesis.openapi.format("time-zone", st.sampled_from(["America/New_York", "UTC", "Asia/Kathmandu"]))
schemathesis.openapi.format("opening-hours", st.sampled_from(["always", "Mon-Fri 09:00-17:00", "Sat 10:00-12:00"]))


def paged(item: dict[str, Any]) -> bool:
    return "cursor" in {parameter["name"] for parameter in item.get("get", {}).get("parameters", [])}


SCHEMA = schemathesis.openapi.from_dict(
    DOCUMENT,
    config=SchemathesisConfig.from_dict(
        {
            "auth": {"openapi": {"bearer": {"bearer": TOKEN}, "devKey": {"api_key": "dev"}}},
            "request-timeout": 10,
            "generation": {"allow-x00": False},  # a NUL is refused wherever it stands
            "max-stream-events": 1,
            "cache": {"enabled": False},
            # What a change without If-Match (428) and one on another version (412) are told is no part of its defaults.
            "checks": {
                "missing_required_header": {"expected-statuses": [400, 401, 403, 406, 415, 422, 428]},
                "positive_data_acceptance": {
                    "expected-statuses": ["2xx", "3xx", 401, 403, 404, 409, 412, 429, "5xx"],
                },
            },
        }
    ),
)


def more() -> Iterator[tuple[str, dict[str, Any]]]:
    """One more of each thing, so that there are two pages of them."""
    for table, values in rows(replace(A, word="wren", seed="c0c0c0c0", phone="+12125550163")):
        if table == "leads":
            yield table, values
        elif table in {"calls", "missed_calls", "messages", "tasks"}:
            yield table, values | {"lead_id": A.lead}


class Served:
    """The API in a thread of its own: schemathesis asks and waits."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="api")
        self._runner: web.AppRunner | None = None

    def do(self, what: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(30)

    def start(self) -> str:
        self._thread.start()
        return str(self.do(self._start()))

    def stop(self) -> None:
        self.do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> str:
        async with open_pool(self._config, Metrics("test")) as db:
            await add_tenant(db, A.id, company=A.company, number=A.number)
        for table, values in [*rows(A), *more()]:
            by = None if table in BY_SYSTEM else A.id
            insert(self._config.database_url, table, {"tenant_id": A.id, **values}, as_tenant=by)
        app = build_app(self._config)
        self._runner = web.AppRunner(app, shutdown_timeout=1)
        await self._runner.setup()
        self._busy = asyncio.create_task(self._happen(app))
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0]
        return f"http://{host}:{port}"

    async def _stop(self) -> None:
        self._busy.cancel()
        await asyncio.wait([self._busy])
        assert self._runner is not None
        await self._runner.cleanup()

    async def _happen(self, app: web.Application) -> None:
        """Something happens all the time, so that nobody who polls waits for long."""
        while True:
            session = app[keys.DB].one(A.id)
            app[keys.BUS].publish(await events.append(session, "", [{"event": "test.tick", "data": {}}]))
            await asyncio.sleep(0.1)


@pytest.fixture(scope="module")
def base(
    postgres_server: embedded.PostgresServer, template_url: str, redis_server: embedded.RedisServer
) -> Iterator[str]:
    name = "test_openapi"
    execute(postgres_server.url, f"create database {name} template template_for_tests")
    served = Served(make_config(on_database(postgres_server.url, name), redis_server.url))
    yield served.start()
    served.stop()
    execute(postgres_server.url, f"drop database {name} with (force)")


def without_guesses(case: schemathesis.Case) -> schemathesis.Case:
    """Only the page before could tell a cursor that is taken: see test_pages_follow_each_other."""
    if case.meta and case.meta.generation.mode is schemathesis.GenerationMode.POSITIVE:
        case.query.pop("cursor", None)
    return case


@SCHEMA.parametrize()
@settings(max_examples=EXAMPLES)
def test_what_is_answered_is_what_is_declared(case: schemathesis.Case, base: str):
    without_guesses(case).call_and_validate(base_url=base)


def test_what_one_answer_tells_the_next_can_be_asked_for(base: str):
    """Along the links: ids out of lists, and what schemathesis finds by itself."""

    class Walk(SCHEMA.as_state_machine()):  # type: ignore[misc]
        def before_call(self, case: schemathesis.Case) -> None:
            without_guesses(case)

        def get_call_kwargs(self, _case: schemathesis.Case) -> dict[str, Any]:
            return {"base_url": base}

    Walk.run(settings=settings(max_examples=WALKS, stateful_step_count=8))


@pytest.mark.parametrize("path", [path for path, item in DOCUMENT["paths"].items() if paged(item)])
def test_pages_follow_each_other(base: str, path: str):
    """With a cursor that a page gave, under every filter it was given with."""
    operation = SCHEMA[path]["get"]
    query: dict[str, Any] = {"limit": 1}
    seen = []
    while True:
        case = operation.Case(
            path_parameters={"id": A.lead} if "{id}" in path else {},
            query=query,
            headers={"Authorization": f"Bearer {TOKEN}"},
        )
        page = case.call_and_validate(base_url=base).json()
        seen += [msgspec.json.encode(item) for item in page["items"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert len(seen) == len(set(seen)) > 1

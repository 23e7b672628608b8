"""Requests: slow ones, failing ones, too many, and such as are none of the caller's business."""

import asyncio
import time
from datetime import timedelta
from uuid import uuid4

import pytest

from tests.background import eventually
from tests.conftest import add_tenant, execute, of_tenant

SETTINGS = "/api/settings"  # read from PostgreSQL every time
drives = pytest.mark.drives
configured = pytest.mark.configured


def slow(watch, token, seconds, times=20):
    """Requests that each take so long, because a table is held."""

    async def cause():
        async with watch.held_up("tenants", SETTINGS, times, token):
            await asyncio.sleep(seconds)

    return cause


def failing(watch, token, times=20):
    """Requests that fail, because a table is gone."""

    async def cause():
        execute(watch.url, "alter table tenants rename to tenants_gone")
        try:
            assert set(await watch.ask(SETTINGS, times, token)) == {503}
        finally:
            execute(watch.url, "alter table tenants_gone rename to tenants")

    return cause


@drives("http_p95", "warning", "critical")
async def test_slow_answers(watch, token):
    await watch.ask(SETTINGS, 20, token)
    await watch.settled("http_p95")
    await watch.passes("http_p95", "warning", slow(watch, token, 0.6))
    await watch.passes("http_p95", "critical", slow(watch, token, 1.2, times=200))


@drives("http_errors", "warning", "critical")
async def test_failing_answers(watch, token):
    await watch.ask(SETTINGS, 100, token)
    await watch.settled("http_errors")

    async def one_in_a_hundred():
        await watch.ask(SETTINGS, 100, token)
        await failing(watch, token, 1)()

    await watch.passes("http_errors", "warning", one_in_a_hundred)
    await watch.passes("http_errors", "critical", failing(watch, token, 50))


@drives("http_budget_fast", "critical")
@drives("http_budget_slow", "warning")
async def test_the_error_budget_burns(watch, token):
    async def three_in_a_hundred():
        await watch.ask(SETTINGS, 100, token)
        await failing(watch, token, 3)()

    await watch.ask(SETTINGS, 100, token)
    await watch.settled("http_budget_fast", "http_budget_slow")
    await watch.passes("http_budget_fast", "critical", three_in_a_hundred)
    await watch.passes("http_budget_slow", "warning", three_in_a_hundred)


@drives("latency_budget", "warning")
async def test_the_latency_budget_burns(watch, token):
    await watch.ask(SETTINGS, 1, token)
    await watch.settled("latency_budget")
    await watch.passes("latency_budget", "warning", slow(watch, token, 0.6, times=120))


@drives("foreign_ids", "critical")
async def test_foreign_ids(watch, token, db):
    await add_tenant(db, "other", company="777", number="+13125550777")
    sql = (
        "insert into leads (tenant_id, phone, last_contact_at) values (current_tenant(), '+12125550142', now())"
        " returning id::text"
    )
    ((foreign,),) = of_tenant(watch.url, sql, tenant="other")
    assert await watch.ask(f"/api/leads/{uuid4()}", 1, token) == [404]
    await watch.settled("foreign_ids")

    async def attempt():
        assert await watch.ask(f"/api/leads/{foreign}", 1, token) == [404]
        await eventually(lambda: watch.counted("cross_tenant_access_attempts_total"))

    await watch.passes("foreign_ids", "critical", attempt)


@drives("rate_limited", "warning")
@configured(RATE_LIMIT_USER="10/day")
async def test_who_asks_too_often(watch, token):
    await watch.ask(SETTINGS, 80, token)
    await watch.settled("rate_limited")
    await watch.passes("rate_limited", "warning", lambda: watch.ask(SETTINGS, 80, token))


@drives("unusual_traffic", "info")
async def test_three_times_the_usual(watch, token):
    now = watch.now()
    for day in range(1, 6):
        watch.monitor.history.add_hour(now - timedelta(days=6 - day, minutes=1), {"requests": 100.0 + day})
    await watch.ask(SETTINGS, 200, token)
    await watch.settled("unusual_traffic")
    await watch.passes("unusual_traffic", "info", lambda: watch.ask(SETTINGS, 150, token))


@drives("loop_lag", "warning", "critical")
async def test_something_that_blocks_the_loop(watch):
    await asyncio.sleep(2.5)
    await watch.settled("loop_lag")

    def blocked(seconds, times):
        async def cause():
            for _ in range(times):
                time.sleep(seconds)  # noqa: ASYNC251 - the fault itself
                await asyncio.sleep(0.05)

        return cause

    await watch.passes("loop_lag", "warning", blocked(0.3, 7))
    await watch.passes("loop_lag", "critical", blocked(0.8, 5))

"""Webhooks: failing, unusable, nobody's, forged, slow, silent, and waiting on disk."""

import asyncio
from datetime import timedelta

import pytest

from tests.background import locked
from tests.conftest import execute, of_tenant
from tests.helpers import deliver, report

drives = pytest.mark.drives
configured = pytest.mark.configured


@drives("webhook_failed", "critical")
async def test_failing_ones(watch):
    await deliver(watch.base, "pre-call", report("pre-call"))
    await watch.settled("webhook_failed")

    async def cause():
        execute(watch.url, "alter table payloads rename to payloads_gone")  # a migration gone wrong; and no disk
        status, _ = await deliver(watch.base, "pre-call", report("pre-call"))
        execute(watch.url, "alter table payloads_gone rename to payloads")
        assert status == 503

    await watch.passes("webhook_failed", "critical", cause)


@drives("webhook_quarantined", "warning")
async def test_unusable_ones(watch):
    await watch.settled("webhook_quarantined")

    async def cause():
        status, answer = await deliver(watch.base, "call-complete", report("call-complete", duration="soon"))
        assert (status, answer["status"]) == (200, "quarantined")

    await watch.passes("webhook_quarantined", "warning", cause)


@drives("webhook_unclaimed", "info")
async def test_of_unknown_companies(watch):
    await watch.settled("webhook_unclaimed")

    async def cause():
        body = report("pre-call", company_id=4711, company_resource_id="COM4711", tracking_phone_number="+13125554711")
        assert (await deliver(watch.base, "pre-call", body))[0] == 202

    await watch.passes("webhook_unclaimed", "info", cause)


@drives("webhook_rejected", "warning")
async def test_with_a_wrong_key(watch):
    for _ in range(10):
        await deliver(watch.base, "pre-call", report("pre-call"))

    async def cause(times=4):
        for _ in range(times):
            assert (await deliver(watch.base, "pre-call", report("pre-call"), key="wrong"))[0] == 401

    await cause(3)
    await watch.settled("webhook_rejected")
    await watch.passes("webhook_rejected", "warning", cause)


@drives("webhook_p95", "warning", "critical")
@configured(DB_POOL_SIZE="10")
async def test_slow_ones(watch):
    await deliver(watch.base, "pre-call", report("pre-call"))
    await watch.settled("webhook_p95")

    def slow(seconds, times):
        async def cause():
            with locked(watch.url, "payloads"):
                taking = [
                    asyncio.create_task(deliver(watch.base, "pre-call", report("pre-call"))) for _ in range(times)
                ]
                await asyncio.sleep(seconds)
            assert {status for status, _ in await asyncio.gather(*taking)} == {200}

        return cause

    await watch.passes("webhook_p95", "warning", slow(0.7, 5))
    await watch.passes("webhook_p95", "critical", slow(1.5, 9))


@drives("webhook_unknown", "info")
async def test_of_a_new_provider(watch):
    await watch.settled("webhook_unknown")
    await watch.passes("webhook_unknown", "info", lambda: _post(watch, "/newvoice/call-complete"))


async def _post(watch, path):
    import aiohttp

    async with aiohttp.ClientSession() as session, session.post(watch.base + path, json={}) as response:
        assert response.status == 404


@drives("webhook_spool", "warning", "critical")
@configured(SPOOL_DIR="{tmp}/spool", ALERT_BOUNDS="webhook_spool.critical=3/60s")
async def test_waiting_on_disk(watch, postgres_server):
    await watch.settled("webhook_spool", "webhook_spool_usable")
    postgres_server.stop()
    try:

        async def cause():
            assert (await deliver(watch.base, "pre-call", report("pre-call")))[0] == 200

        await watch.passes("webhook_spool", "warning", cause)
        for _ in range(4):
            await cause()
        await watch.passes("webhook_spool", "critical")
    finally:
        postgres_server.start()


@drives("webhook_spool_usable", "warning")
async def test_no_room_on_disk(watch):
    await watch.passes("webhook_spool_usable", "warning")


@drives("webhook_silent", "warning")
async def test_a_tenant_that_fell_silent(watch, config):
    await watch.settled("webhook_silent")
    for week in (1, 2):
        at = watch.now() - timedelta(weeks=week, hours=2)
        of_tenant(
            watch.url,
            "insert into idempotency_keys (tenant_id, provider, kind, external_id, variant, outcome, created_at) "
            "select 'demo', 'callrail', 'pre-call', n::text || %s, '1', 'processed', %s from generate_series(1, 9) n",
            str(week), at,
        )  # fmt: skip
    await watch.look(300)  # it is asked every five minutes
    await watch.passes("webhook_silent", "warning")

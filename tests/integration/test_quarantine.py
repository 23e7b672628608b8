"""Genuine deliveries that could not be used: kept with their cause, and tried again once, by command and by page."""

import asyncio
import html
import json
import re
from datetime import timedelta

import aiohttp
import pytest

from jobs.retention import retention
from ottoai.__main__ import main
from ottoai.commands import ingesting
from ottoai.domain import calls
from ottoai.errors import OutcomeUnknown
from ottoai.web import quarantine as quarantine_page
from ottoai.webhooks import callrail, quarantine
from tests.background import context_of
from tests.conftest import execute, of_tenant
from tests.helpers import deliver, report
from tests.integration.test_retention import aged
from tests.integration.test_webhooks import log_of
from tests.operators import Answer, Operator


@pytest.fixture
def poisoned(monkeypatch):
    """A fault of ours with one caller's name, until it is mended."""
    record = calls.record

    async def broken(tx, report, *args, **kwargs):
        if report.facts.customer_name == "Poison":
            raise KeyError("a fault of ours")
        return await record(tx, report, *args, **kwargs)

    monkeypatch.setattr(calls, "record", broken)
    return lambda: monkeypatch.setattr(calls, "record", record)


@pytest.fixture
def command(config, monkeypatch, capsys):
    """Run a command of `python -m ottoai`; (exit code, its output)."""
    names = {"DATABASE_URL": config.database_url, "REDIS_URL": config.redis_url, "JWT_SECRET": config.jwt_secret,
             "SECRET_KEYS": ",".join(config.secret_keys), "ENVIRONMENT": "staging"}  # fmt: skip
    for name, value in names.items():
        monkeypatch.setenv(name, value)

    async def run(*words: str) -> tuple[int, str]:
        code = await asyncio.to_thread(main, list(words))
        return code, capsys.readouterr().out

    return run


async def quarantined(base: str, count: int = 1, first: int = 7000) -> None:
    for number in range(first, first + count):
        body = report("call-complete", number, customer_name="Poison")
        status, answer = await deliver(base, "call-complete", body)
        assert (status, answer["status"]) == (200, "quarantined")


async def test_a_fault_of_ours_loses_nothing(base, database_url, poisoned):
    await quarantined(base)
    assert [event for _, event in log_of(database_url)] == ["system.webhook.quarantined"]
    assert of_tenant(database_url, "select error from payloads") == [("internal error: KeyError",)]
    again = await deliver(base, "call-complete", report("call-complete", 7000, customer_name="Poison"))
    assert again[0] == 200


async def test_one_that_we_stumble_over_keeps_no_other_from_being_tried(base, database_url, command, monkeypatch):
    parse = callrail.parse
    stumbles = [b"7000", b"7001", b"7002"]

    def stumble(raw):
        if any(number in raw.body for number in stumbles):
            raise KeyError("a fault of ours")
        return parse(raw)

    monkeypatch.setattr(callrail, "parse", stumble)
    await quarantined(base, 3)
    stumbles.remove(b"7001")
    auth = {"Authorization": aiohttp.encode_basic_auth("operator", "secret")}
    async with aiohttp.ClientSession(headers=auth) as session:
        async with session.get(f"{base}/ops/quarantine") as response:
            token = re.search(r'name="csrf" value="([^"]+)"', await response.text())[1]
        pressed = f"{base}/ops/quarantine/replay"
        async with session.post(pressed, data={"all": "1", "csrf": token}) as response:
            assert response.status == 200
            assert "1 processed, 2 quarantined" in await response.text()
    stumbles.remove(b"7002")
    code, out = await command("quarantine", "replay", "--all")
    assert (code, out.splitlines()[-1]) == (1, "1 processed, 1 quarantined")
    assert "after: quarantined, internal error: KeyError" in out
    assert of_tenant(database_url, "select external_id from calls order by 1") == [("7001",), ("7002",)]
    stumbles.clear()
    assert (await command("quarantine", "replay", "--all"))[0] == 0
    assert of_tenant(database_url, "select count(*) from calls") == [(3,)]


async def test_it_is_tried_again_once(base, database_url, poisoned, config):
    await quarantined(base)
    ((key_id,),) = of_tenant(database_url, "select id::text from idempotency_keys where outcome = 'quarantined'")
    async with ingesting(config) as ingest:
        poisoned()
        done = await asyncio.gather(*(quarantine.replay(ingest, key_id) for _ in range(5)))
    assert sorted(each.status for each in done) == ["processed"] + ["replayed_before"] * 4
    assert {each.before for each in done} == {"internal error: KeyError"}
    (first,) = (each for each in done if each.status == "processed")
    assert first.external_id == "7000"
    assert "telephony.call.missed" in first.events
    assert of_tenant(database_url, "select external_id, missed from calls") == [("7000", True)]
    assert of_tenant(database_url, "select count(*) from outbox") == [(1,)]


async def test_what_is_still_unusable_stays(base, database_url, config):
    await deliver(base, "call-complete", {**report("call-complete", 7001), "duration": "long"})
    ((key_id,),) = of_tenant(database_url, "select id::text from idempotency_keys where outcome = 'quarantined'")
    async with ingesting(config) as ingest:
        for _ in range(2):
            done = await quarantine.replay(ingest, key_id)
            assert done.status == "quarantined"
            assert "duration" in (done.detail or "")


async def test_commands_list_show_and_replay(base, poisoned, command, database_url):
    await quarantined(base, 3)
    await deliver(base, "pre-call", {**report("pre-call", 7009), "answered": "perhaps"})
    code, out = await command("quarantine", "list")
    assert (code, len(out.splitlines())) == (0, 4)
    assert "demo\tcallrail call-complete\tinternal error: KeyError" in out
    code, out = await command("quarantine", "list", "--kind", "pre-call", "--tenant", "demo", "--since", "2020-01-01")
    assert len(out.splitlines()) == 1
    key_id = out.split("\t")[0]
    code, out = await command("quarantine", "show", key_id)
    assert '"perhaps"' in out
    poisoned()
    assert (await command("quarantine", "replay"))[0] == 1
    code, out = await command("quarantine", "replay", "--kind", "call-complete", "--dry-run")
    assert (code, len(out.splitlines())) == (0, 3)
    code, out = await command("quarantine", "replay", "--kind", "call-complete")
    assert (code, out.splitlines()[-1]) == (0, "3 processed")
    assert "before: quarantined, internal error: KeyError\tafter: processed, call 7000, telephony.call.received" in out
    code, out = await command("quarantine", "replay", "--all")
    assert (code, out.splitlines()[-1]) == (1, "1 quarantined")
    assert of_tenant(database_url, "select count(*) from calls") == [(3,)]


async def test_the_page_shows_and_replays(base, poisoned, database_url):
    await quarantined(base, 2)
    auth = {"Authorization": aiohttp.encode_basic_auth("operator", "secret")}
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{base}/ops/quarantine") as response:
            assert response.status == 401
        async with session.get(f"{base}/ops/quarantine", headers=auth) as response:
            text = await response.text()
            assert "2 quarantined" in text
            assert "internal error: KeyError" in text
        key_id = execute(database_url, "select id::text from idempotency_keys order by created_at")[0][0]
        token = {"csrf": re.search(r'name="csrf" value="([^"]+)"', text)[1]}
        poisoned()
        async with session.post(
            f"{base}/ops/quarantine/replay", headers=auth, data={"id": key_id, **token}
        ) as response:
            text = await response.text()
            assert "1 quarantined" in text
            assert "telephony.call.missed" in text
        only = f"{base}/ops/quarantine/replay?kind=call-complete"
        async with session.post(only, headers=auth, data={"all": "1", **token}) as response:
            assert "Nothing is quarantined" in await response.text()
            assert response.url.path_qs.startswith("/ops/quarantine?kind=call-complete&done=")
    assert of_tenant(database_url, "select count(*) from calls") == [(2,)]


async def test_what_can_no_longer_be_tried_is_neither_listed_nor_counted(base, poisoned, command, config, database_url):
    await quarantined(base, 2)
    aged(database_url, "payloads", timedelta(days=config.payload_retention_days + 1))
    async with context_of(config) as context:
        assert await retention(context) is False
    await quarantined(base, 3, first=7100)
    execute(  # as an erasure does; what came before it is still kept
        database_url,
        "alter table payloads no force row level security; delete from payloads where position('7101' in body) > 0;"
        "alter table payloads force row level security",
    )
    olga = Operator(base, "operator", "secret")
    assert "2 quarantined" in (await olga.get("/ops/quarantine")).text
    assert json.loads((await olga.get("/ops.json")).text)["quarantine"]["count"] == 2
    code, out = await command("quarantine", "list")
    assert (code, len(out.splitlines())) == (0, 2)
    poisoned()
    code, out = await command("quarantine", "replay", "--all")
    assert (code, out.splitlines()[-1]) == (0, "2 processed")
    assert "Nothing is quarantined" in (await olga.get("/ops/quarantine")).text


async def test_what_cannot_be_mended_keeps_nothing_behind_it_from_being_seen_and_tried(
    base, poisoned, database_url, monkeypatch
):
    monkeypatch.setattr(quarantine_page, "SHOWN", 2)
    for number in (7001, 7002):
        await deliver(base, "call-complete", {**report("call-complete", number), "duration": "long"})
    await quarantined(base, 3, first=7100)
    poisoned()
    olga = Operator(base, "operator", "secret")

    async def press_all(page: Answer) -> tuple[str, Answer]:
        form = html.unescape(re.search(r'action="([^"]+/replay[^"]*)"', page.text)[1])
        pressed = await olga.post(form, csrf=re.search(r'name="csrf" value="([^"]+)"', page.text)[1], all="1")
        return pressed.text.strip(), await olga.get(pressed.headers["Location"])

    first = await olga.get("/ops/quarantine?tenant=demo")
    assert "<h1>5 quarantined</h1>" in first.text
    further = html.unescape(re.search(r'href="([^"]+)" rel="next"', first.text)[1])
    second = await olga.get(further)
    assert "<h1>3 more quarantined</h1>" in second.text
    assert second.text.count("internal error: KeyError") == 2
    assert (await olga.get(further.replace("demo", "other"))).status == 400, "a place in another list"
    outcome, page = await press_all(first)
    assert outcome == "2 quarantined; 3 left"
    assert "<h1>3 more quarantined</h1>" in page.text
    outcome, page = await press_all(page)
    assert outcome == "2 processed; 1 left"
    outcome, page = await press_all(page)
    assert outcome.startswith("processed: telephony.call.received")
    assert "Nothing more is quarantined" in page.text
    oldest = html.unescape(re.search(r'href="([^"]+)">Oldest', page.text)[1])
    assert "<h1>2 quarantined</h1>" in (await olga.get(oldest)).text
    assert of_tenant(database_url, "select count(*) from calls") == [(3,)]


@pytest.mark.parametrize("committed", [True, False])
async def test_an_unknown_commit_is_looked_up_and_answered_truthfully(base, database_url, monkeypatch, committed):
    record, asked = calls.record, []

    async def lost(tx, report, *args, **kwargs):
        asked.append(report)
        if len(asked) == 1:
            if committed:
                await record(tx, report, *args, **kwargs)
            raise OutcomeUnknown
        return await record(tx, report, *args, **kwargs)

    monkeypatch.setattr(calls, "record", lost)
    body = report("call-complete", 7001)
    assert (await deliver(base, "call-complete", body))[1]["status"] == "processed"
    assert len(asked) == 2
    assert (await deliver(base, "call-complete", body))[1]["status"] == "duplicate_ignored"
    assert of_tenant(database_url, "select count(*) from calls") == [(1,)]

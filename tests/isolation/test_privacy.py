"""`tenant export` and `tenant erase`: all of a tenant or a phone, and nothing of anybody else's."""

import asyncio
import io
import json
import re
import sys
from contextlib import closing

import msgspec
import psycopg2
import pytest
import redis

from ottoai import __main__ as command_line
from ottoai import commands_privacy as privacy_commands
from ottoai.app import build_app
from ottoai.client import Closed, connect
from ottoai.config import Config
from ottoai.db import open_pool
from ottoai.domain.catalogue import EVENTS
from ottoai.domain.outbox import Due
from ottoai.metrics import Metrics
from ottoai.queue import Queues, client
from ottoai.web import keys
from tests.background import eventually as soon
from tests.background import miss_a_call, serving, texted
from tests.conftest import execute
from tests.helpers import deliver, get, report, send, until
from tests.isolation.canaries import A, B, canaries_of, dump, found_in, insert
from tests.isolation.catalogue import GRANTS, NOBODYS

PERSON = "+12125550142"
NATIONAL = "2125550142"
STRANGER = "+12125550143"


@pytest.fixture
def run(config: Config, monkeypatch, capsys):
    """`python -m ottoai …` as an operator types it; (exit code, standard output, standard error)."""

    def command(*words: str, typed: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(command_line.Config, "load", lambda _: config)
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        code = command_line.main(["tenant", *words])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return command


async def off_loop(run, *words: str, typed: str = "") -> tuple[int, str, str]:
    return await asyncio.to_thread(run, *words, typed=typed)


def read(path) -> tuple[dict, dict[str, list[dict]], dict]:
    """(header, rows by table, end) of an export."""
    header, *lines, end = [json.loads(line) for line in path.read_text().splitlines()]
    tables: dict[str, list[dict]] = {}
    for line in lines:
        tables.setdefault(line["table"], []).append(line["row"])
    assert end == {"rows": len(lines)}
    return header, tables, end


async def call_of(base: str, call_id: int, phone: str, **fields) -> None:
    """A missed call of a customer of A's, in two reports; its raw bodies write the number in several ways."""
    told = {
        "company_id": int(A.company), "company_resource_id": None, "tracking_phone_number": A.number,
        "customer_phone_number": phone, "formatted_customer_phone_number": f"({phone[2:5]}) {phone[5:8]}-{phone[8:]}",
        "customer_name": "Robin Person", **fields,
    }  # fmt: skip
    for kind in ("pre-call", "call-complete"):
        status, answer = await deliver(base, kind, report(kind, call_id, **told), tenant=A.id)
        assert (status, answer["status"]) == (200, "processed")


def everything(url: str) -> str:
    """Every column of every table, as text."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        texts = [json.dumps(dump(url, tenant)) for tenant in (A.id, B.id)]
        cursor.execute("select string_agg(legible(body) || identities::text, ' ') from unclaimed_deliveries")
        texts.append(cursor.fetchone()[0] or "")
        cursor.execute("select string_agg(ops_audit::text, ' ') from ops_audit")
        return "\n".join([*texts, cursor.fetchone()[0] or ""])


def digits(text: str) -> str:
    return re.sub("[^0-9]", "", text)


# Export


async def test_an_export_holds_all_of_the_tenant_and_nothing_else(two, run, database_url, tmp_path):
    path = tmp_path / "out.jsonl"
    code, out, told = await off_loop(run, "export", A.id, "--output", str(path))
    assert (code, out) == (0, "")
    assert "exported 1 row of leads" in told
    assert path.stat().st_mode & 0o777 == 0o600
    header, tables, _ = read(path)
    assert (header["format"], header["tenant_id"], header["phone"]) == ("ottoai-export/1", A.id, None)
    assert tables.keys() == GRANTS.keys() - NOBODYS
    text = path.read_text()
    assert found_in(text, canaries_of(database_url, B, A)) == []
    stored = [row[name] for row in json_rows(database_url, "credentials") for name in ("current", "previous")]
    secret = {"robin-hook", *filter(None, stored)}
    absent = canaries_of(database_url, A, B) - set(found_in(text, canaries_of(database_url, A, B)))
    assert secret <= absent
    hooks = {row["value"] for row in json_rows(database_url, "tenant_routes") if row["kind"] == "hook"}
    assert absent <= secret | hooks | nested(absent)
    assert json.loads(tables["payloads"][0]["body"])["note"] == "robin payload", "bodies are text"


def json_rows(url: str, table: str) -> list[dict]:
    return [json.loads(row) for row in dump(url, A.id)[table]]


def nested(absent: frozenset[str]) -> set[str]:
    """JSON inside of JSON text is escaped; its leaves are there."""
    return {text for text in absent if text.startswith("{")}


async def test_an_export_overwrites_nothing(two, run, tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text("precious")
    code, _, told = await off_loop(run, "export", A.id, "--output", str(path))
    assert code == 1
    assert "not overwritten" in told
    assert path.read_text() == "precious"
    missing = tmp_path / "none.jsonl"
    code, _, told = await off_loop(run, "export", "nobody", "--output", str(missing))
    assert code == 1
    assert "There is no tenant nobody" in told
    assert not missing.exists()


async def test_an_export_of_a_phone_is_about_it_alone(two, base, run, tmp_path):
    await call_of(base, 9401, PERSON)
    await call_of(base, 9402, STRANGER, customer_name="Someone Else")
    path = tmp_path / "out.jsonl"
    assert (await off_loop(run, "export", A.id, "--phone", "(212) 555-0142", "--output", str(path)))[0] == 0
    header, tables, _ = read(path)
    assert header["phone"] == PERSON
    assert tables.keys() == {"calls", "events", "idempotency_keys", "leads", "missed_calls", "outbox", "payloads"}
    assert (len(tables["calls"]), len(tables["leads"]), len(tables["payloads"])) == (1, 1, 2)
    assert {row["event"] for row in tables["events"]} >= {"lead.created", "telephony.call.missed", "missed_call.queued"}
    text = path.read_text()
    assert "Someone Else" not in text
    assert A.phone not in text
    assert found_in(text, frozenset({B.word, B.seed})) == []


# Erasing a phone


async def test_nothing_is_left_of_an_erased_phone(two, base, run, config, db, make_token, database_url, redis_url):
    await call_of(base, 9411, PERSON)
    await call_of(base, 9412, STRANGER, customer_name="Someone Else")
    quoted = report(
        "call-complete", 9413, company_id=int(A.company), company_resource_id=None, tracking_phone_number=A.number,
        duration=PERSON,
    )  # fmt: skip
    assert (await deliver(base, "call-complete", quoted, tenant=A.id))[1]["status"] == "quarantined"
    assert NATIONAL in digits(everything(database_url))
    head = (await get(base, "/api/events", make_token(A.id)))[2]
    seqs = [row["seq"] for row in json_rows(database_url, "events")]
    b_before, stranger = dump(database_url, B.id), lead_of(database_url, STRANGER)

    lists = (
        "/api/calls",
        "/api/leads",
        "/api/missed-calls",
        f"/api/leads/{lead_of(database_url, PERSON)[0]['id']}/timeline",
    )
    cached = {path: await get(base, path, make_token(A.id)) for path in lists}
    assert all(PERSON in json.dumps(page) for _, _, page in cached.values() if "phone" in json.dumps(page))
    code, _, told = await off_loop(run, "erase", A.id, "--phone", PERSON, "--yes")
    assert code == 0, told
    assert "erased 1 row of leads" in told
    for path, (_, headers, _) in cached.items():  # what was cached of it is not served any more
        status, _, page = await get(base, path, make_token(A.id), **{"If-None-Match": headers["ETag"]})
        assert (status, NATIONAL in digits(json.dumps(page))) == (404 if "timeline" in path else 200, False), path
    text = everything(database_url)
    assert NATIONAL not in digits(text)
    assert "Robin Person" not in text
    assert redis_holds(redis_url, NATIONAL) == []
    assert dump(database_url, B.id) == b_before
    assert lead_of(database_url, STRANGER) == stranger
    assert sorted(row["seq"] for row in json_rows(database_url, "events")) == sorted(seqs), "the log has no gap"

    for row in json_rows(database_url, "events"):
        if row["event"] in EVENTS and not row["trace_id"].startswith(A.word):
            msgspec.convert(row["data"], EVENTS[row["event"]])

    # Clients learn that history has changed; what they can still read fits the types.
    status, _, after = await get(base, "/api/events?since=0&limit=200", make_token(A.id))
    if status == 503:  # the process learned it by this question
        _, _, after = await get(base, "/api/events?since=0&limit=200", make_token(A.id))
    assert after["epoch"] > head["epoch"] or await renewed(base, make_token, head["epoch"])
    assert (await deliver(base, "call-complete", quoted, tenant=A.id))[1]["status"] == "duplicate_ignored"
    assert await off_loop(run, "erase", A.id, "--phone", PERSON, "--yes") == (0, "", "nothing is kept of it\n")


async def test_a_text_of_staff_to_an_erased_phone_is_nowhere_and_its_events_fit_their_types(
    two, base, run, make_token, database_url
):
    await call_of(base, 9416, PERSON)
    path = f"/api/leads/{lead_of(database_url, PERSON)[0]['id']}/messages"
    said = {"body": "Robin, your roof is done"}
    assert (await send(base, "POST", path, make_token(A.id), said, ("Idempotency-Key", "k")))[0] == 202
    code, _, told = await off_loop(run, "erase", A.id, "--phone", PERSON, "--yes")
    assert (code, "erased 1 row of request_keys" in told) == (0, True), told
    assert "your roof" not in everything(database_url)
    erased = [row for row in json_rows(database_url, "events") if not row["trace_id"].startswith(A.word)]
    assert "missed_call.recovered" in {row["event"] for row in erased}
    for row in erased:
        msgspec.convert(row["data"], EVENTS[row["event"]])


async def test_what_is_read_while_a_phone_is_erased_is_not_shown_afterwards(two, base, config, token_a):
    """A page that was cached between two steps holds what the later ones erase."""
    await call_of(base, 9415, PERSON)
    async with open_pool(config, Metrics("test"), privacy_commands.ROLE) as db:
        about = await privacy_commands.privacy.person(db.one(A.id), PERSON)
        async for _ in privacy_commands.privacy.erase_phone(db.one(A.id), about):
            seen = [(await get(base, path, token_a))[1]["ETag"] for path in ("/api/calls", "/api/leads")]
    for path, tag in zip(("/api/calls", "/api/leads"), seen, strict=True):
        status, _, page = await get(base, path, token_a, **{"If-None-Match": tag})
        assert (status, NATIONAL in digits(json.dumps(page))) == (200, False), path


async def renewed(base: str, make_token, epoch: int) -> bool:
    """A second later at most, the ring in memory is gone."""

    async def changed() -> bool:
        answer = (await get(base, "/api/events?since=0&limit=200", make_token(A.id)))[2]
        return answer["epoch"] > epoch and NATIONAL not in digits(json.dumps(answer["items"]))

    return bool(await soon(changed))


def lead_of(url: str, phone: str) -> list[dict]:
    return [row for row in json_rows(url, "leads") if row["phone"] == phone]


def redis_holds(url: str, text: str) -> list[str]:
    """Keys whose name or value holds this."""
    with closing(redis.Redis.from_url(url)) as client:
        held = {key: client.dump(key) or b"" for key in client.scan_iter()}
    return [str(key) for key, value in held.items() if text.encode() in key + value]


async def test_a_delivery_that_comes_again_is_a_duplicate(two, base, run, database_url):
    body = report(
        "call-complete", 9421, company_id=int(A.company), company_resource_id=None, tracking_phone_number=A.number,
        customer_phone_number=PERSON,
    )  # fmt: skip
    assert (await deliver(base, "call-complete", body, tenant=A.id))[1]["status"] == "processed"
    assert (await off_loop(run, "erase", A.id, "--phone", PERSON, "--yes"))[0] == 0
    assert (await deliver(base, "call-complete", body, tenant=A.id))[1]["status"] == "duplicate_ignored"
    assert NATIONAL not in digits(everything(database_url))
    [call] = [row for row in json_rows(database_url, "calls") if row["external_id"] == "9421"]
    assert (call["status"], call["missed"], call["lead_id"], call["customer_phone"]) == ("completed", True, None, None)


async def test_open_sockets_are_told_that_history_changed(two, base, run, token_a):
    await call_of(base, 9431, PERSON)
    async with connect(base, token_a) as socket:
        await socket.subscribe(f"tenant:{A.id}:events")
        assert (await off_loop(run, "erase", A.id, "--phone", PERSON, "--yes"))[0] == 0
        with pytest.raises(Closed) as closed:
            while True:
                await socket.receive()
        assert closed.value.code == 1012
        before = socket.welcome
    async with connect(base, token_a) as socket:
        assert socket.welcome["epoch"] > before["epoch"]
        answer = await socket.subscribe(f"tenant:{A.id}:events", f"{before['epoch']}.0")
        assert (answer["success"], answer["recovered"]) == (True, False)


async def test_a_text_that_waits_is_not_sent(demo, run, config, db, database_url):
    await miss_a_call(db, 101)
    [(phone,)] = [(row["phone"],) for row in map(json.loads, dump(database_url, "demo")["leads"])]
    assert (await off_loop(run, "erase", "demo", "--phone", phone, "--yes"))[0] == 0
    await miss_a_call(db, 102)
    async with serving(config, Metrics("test", "worker")):
        await soon(lambda: put(config, database_url))
    assert texted(database_url)()


def put(config: Config, url: str) -> bool:
    """What beat does: enqueue what is due; whether all is done."""
    with closing(client(config)) as connection:
        ids = execute(url, "select id::text, queue, tenant_id from outbox where state = 'open' and due_at <= now()")
        Queues(connection).enqueue(Due(str(one), str(queue), str(tenant)) for one, queue, tenant in ids)
    return not ids


@pytest.mark.parametrize(
    ("phone", "told"), [("12", "is no phone number"), (A.number, "one of the tenant's own"), ("nonsense", "no phone")]
)
async def test_what_is_no_customers_phone_is_refused(two, run, database_url, phone, told):
    before = dump(database_url, A.id)
    code, _, said = await off_loop(run, "erase", A.id, "--phone", phone, "--yes")
    assert code == 1
    assert told in said
    assert dump(database_url, A.id) == before


async def test_an_erasure_that_broke_off_is_ended_by_another(two, base, run, monkeypatch, database_url):
    """Whatever step it broke off at."""
    await call_of(base, 9441, PERSON)
    real = privacy_commands.privacy.erase_phone
    steps = 0

    def broken_after(limit: int):
        async def broken(tx, about):
            done = 0
            async for erased in real(tx, about):
                yield erased
                done += 1
                if done >= limit:
                    raise RuntimeError("killed")

        return broken

    for steps in range(1, 60, 4):
        monkeypatch.setattr(privacy_commands.privacy, "erase_phone", broken_after(steps))
        try:
            await off_loop(run, "erase", A.id, "--phone", PERSON, "--yes")
        except RuntimeError:
            continue
        break
    monkeypatch.setattr(privacy_commands.privacy, "erase_phone", real)
    assert (await off_loop(run, "erase", A.id, "--phone", PERSON, "--yes"))[0] == 0
    text = everything(database_url)
    assert NATIONAL not in digits(text)
    assert "Robin Person" not in text
    assert steps > 1


# Erasing a tenant


async def test_nothing_is_left_of_an_erased_tenant(two, base, run, token_a, token_b, database_url, redis_url):
    await call_of(base, 9451, PERSON)
    b_before = dump(database_url, B.id)
    a_canaries = canaries_of(database_url, A, B)
    code, _, told = await off_loop(run, "erase", A.id, typed="not it\n")
    assert (code, "nothing was erased" in told) == (1, True)
    assert json_rows(database_url, "leads")

    async with connect(base, token_a) as socket:
        code, _, told = await off_loop(run, "erase", A.id, typed=f"{A.id}\n")
        assert code == 0, told
        with pytest.raises(Closed) as closed:
            while True:
                await socket.receive()
        assert closed.value.code == 4401
    left = dump(database_url, A.id)
    assert {table for table, found in left.items() if found} == {"revocations"}
    assert "robin-revoked-user" not in json.dumps(left), "only that the tenant's tokens are refused stays"
    assert (await get(base, "/api/calls", token_a))[0] == 401
    assert dump(database_url, B.id) == b_before
    assert (await get(base, "/api/calls", token_b))[0] == 200
    ours = {A.id, "follow_up"}  # the latter is a job, and the beginning of a column's name
    assert found_in(everything(database_url).replace(json.dumps(left), ""), a_canaries - ours) == []
    assert redis_holds(redis_url, NATIONAL) == []
    assert await off_loop(run, "erase", A.id, "--yes") == (0, "", f"There is no tenant {A.id}: nothing was erased.\n")


async def test_a_new_process_refuses_the_tokens_of_an_erased_tenant(two, run, token_a, config, aiohttp_server):
    assert (await off_loop(run, "erase", A.id, "--yes"))[0] == 0
    server = await aiohttp_server(build_app(config))
    assert (await get(str(server.make_url("")).rstrip("/"), "/api/calls", token_a))[0] == 401


async def test_deliveries_that_were_not_taken_in_yet_go_too(two, base, run, database_url):
    """Of a company that is added while they come: routes lead to them, but nobody has replayed them."""
    body = report("pre-call", 9461, company_id=424242, company_resource_id=None, tracking_phone_number=None)
    assert (await deliver(base, "pre-call", body, key="unknown"))[0] == 202
    route = {"provider": "callrail", "kind": "company", "value": "424242", "tenant_id": A.id}
    insert(database_url, "tenant_routes", route, as_tenant=None)
    assert (await off_loop(run, "erase", A.id, "--yes"))[0] == 0
    assert execute(database_url, "select count(*) from unclaimed_deliveries") == [(0,)]


async def test_the_ring_of_an_erased_tenant_is_dropped(two, app, base, run, token_a):
    await get(base, "/api/events?since=0", token_a)
    assert A.id in app[keys.HUB].streams
    assert (await off_loop(run, "erase", A.id, "--yes"))[0] == 0
    await until(lambda: A.id not in app[keys.HUB].streams)

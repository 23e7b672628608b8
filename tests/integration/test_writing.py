"""What users change through the API: on the version they read, in one commit with what is told of it."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg2
import pytest

from ottoai.client import connect
from ottoai.domain.roles import Role
from tests.background import blocked, eventually
from tests.conftest import add_tenant, of_tenant
from tests.helpers import deliver, get, report, send

ANY = ("If-Match", "*")
LONG = "x" * 2_000
DEEP = b"[" * 100_000


def if_match(tag: object) -> tuple[str, str]:
    return "If-Match", str(tag)


@contextmanager
def held(url: str, table: str) -> Iterator[None]:
    """Nobody else may change the tenant's rows of a table: who wants to waits."""
    options = "-c role=ottoai_app -c app.tenant_id=demo"
    with closing(psycopg2.connect(url, options=options)) as connection, connection.cursor() as cursor:
        cursor.execute(f"select from {table} for no key update")
        yield


def told(url: str) -> list[tuple[object, ...]]:
    """(event, user, version of its data) of the log, in order."""
    return of_tenant(url, "select event, user_id, (data ->> 'version')::int from events order by seq")


@pytest.fixture
async def lead(base: str, database_url: str) -> str:
    """The lead of a missed call."""
    await deliver(base, "call-complete", report("call-complete", 7001))
    ((found,),) = of_tenant(database_url, "select id::text from leads")
    return f"/api/leads/{found}"


@pytest.fixture
def task(lead: str, database_url: str) -> str:
    """A task to call that lead back."""
    sql = (
        "insert into tasks (tenant_id, lead_id, kind, subject_id, title)"
        " select 'demo', lead_id, 'call_back', id, 'Call back' from missed_calls returning id::text"
    )
    return f"/api/tasks/{of_tenant(database_url, sql)[0][0]}"


async def test_a_lead_gets_a_name(base, make_token, lead, database_url):
    before = told(database_url)
    async with connect(base, make_token()) as socket:
        await socket.subscribe(f"lead:{lead.rpartition('/')[2]}:timeline")
        status, headers, body = await send(base, "PATCH", lead, make_token(), {"name": "Ada O’Brien"}, ANY)
        event = await socket.event()
    assert (status, body["name"], headers["ETag"]) == (200, "Ada O’Brien", f'"{body["version"]}"')
    assert (event["event"], event["data"]) == ("lead.updated", body)
    assert (await get(base, lead, make_token()))[2] == body
    status, _, cleared = await send(base, "PATCH", lead, make_token(), {"name": None}, if_match(headers["ETag"]))
    assert (status, cleared["name"], cleared["version"]) == (200, None, body["version"] + 1)
    assert told(database_url)[len(before) :] == [
        ("lead.updated", None, body["version"]),
        ("lead.updated", None, body["version"] + 1),
    ]


async def test_the_name_that_staff_gave_outlasts_what_providers_tell(base, make_token, lead, database_url):
    phone = (await get(base, lead, make_token()))[2]["phone"]
    for given, call_id, kept in (({"name": "Ada"}, 7002, "Ada"), ({"name": None}, 7003, "Caller Id")):
        await send(base, "PATCH", lead, make_token(), given, ANY)
        later = report("call-complete", call_id, customer_phone_number=phone, customer_name="Caller Id")
        await deliver(base, "call-complete", later)
        text = {"id": call_id, "company_id": later["company_id"], "customer_name": "Caller Id", "source_number": phone}
        text |= {
            "destination_number": later["tracking_phone_number"],
            "content": "Hi",
            "timestamp": later["start_time"],
        }
        assert (await deliver(base, "text-message", text))[0] == 200
        assert (await get(base, lead, make_token()))[2]["name"] == kept
    assert of_tenant(database_url, "select count(*) from messages where direction = 'inbound'") == [(2,)]


async def test_a_name_of_the_providers_that_staff_confirms_is_staffs(base, make_token, lead, database_url):
    shown = (await get(base, lead, make_token()))[2]
    for name, kept in ((shown["name"], shown["name"]), (None, "Caller Id")):
        _, _, body = await send(base, "PATCH", lead, make_token(), {"name": name}, ANY)
        assert (body["version"] == shown["version"]) is (name is not None)
        later = report("call-complete", 7005 + (name is None), customer_phone_number=shown["phone"])
        await deliver(base, "call-complete", later | {"customer_name": "Caller Id"})
        assert (await get(base, lead, make_token()))[2]["name"] == kept


async def test_what_changes_nothing_is_no_change(base, make_token, lead, task, database_url):
    settings, manager = "/api/settings", make_token(role=Role.MANAGER)
    for path, patch in (
        (lead, {"name": "Robin Sample"}),
        (lead, {}),
        (task, {"status": "open", "assigned_to": None}),
        (task, {}),
        (settings, {"name": "Demo", "holidays": [], "sla_minutes": 120, "first_text": None}),
        (settings, {}),
    ):
        before = told(database_url)
        _, first, body = await send(base, "PATCH", path, manager, {}, ANY)
        status, second, same = await send(base, "PATCH", path, manager, patch, if_match(first["ETag"]))
        assert (status, second["ETag"], same) == (200, first["ETag"], body), path
        assert told(database_url) == before


async def test_no_change_is_lost_to_another_on_the_same_version(base, make_token, lead, task, database_url):
    manager = make_token(role=Role.MANAGER)
    for path, one, other in (
        (lead, {"name": "One"}, {"name": "Other"}),
        (task, {"assigned_to": "bob"}, {"status": "done"}),
        ("/api/settings", {"sla_minutes": 60}, {"name": "Other"}),
    ):
        _, read, _ = await send(base, "PATCH", path, manager, {}, ANY)
        status, first, _ = await send(base, "PATCH", path, manager, one, if_match(read["ETag"]))
        assert status == 200
        before = told(database_url)
        status, headers, problem = await send(base, "PATCH", path, manager, other, if_match(read["ETag"]))
        assert (status, headers["ETag"]) == (412, first["ETag"])
        assert problem["type"].endswith("/precondition-failed")
        assert told(database_url) == before
        status, _, both = await send(base, "PATCH", path, manager, other, if_match(headers["ETag"]))
        assert status == 200
        assert {**both, **one, **other} == both


async def test_of_those_that_come_at_once_on_one_version_one_wins(base, make_token, lead, task, database_url):
    manager = make_token(role=Role.MANAGER)
    of_tenant(database_url, "update tasks set lead_id = null returning 1")  # no rescue's lock stands in for the task's
    for table, path, field, value in (
        ("leads", lead, "name", "n{}"),
        ("tasks", task, "assigned_to", "u{}"),
        ("tenants", "/api/settings", "first_text", "{{company}} {}"),
    ):
        _, headers, read = await send(base, "PATCH", path, manager, {}, ANY)
        before = len(told(database_url))
        tag = if_match(headers["ETag"])
        with held(database_url, table):
            asked = [
                asyncio.create_task(send(base, "PATCH", path, manager, {field: value.format(n)}, tag))
                for n in range(20)
            ]
            await eventually(lambda: len(blocked(database_url)) > 1)
        answers = await asyncio.gather(*asked)
        assert sorted(status for status, _, _ in answers) == [200] + [412] * 19
        (won,) = (body for status, _, body in answers if status == 200)
        assert {got["ETag"] for _, got, _ in answers} == {f'"{won["version"]}"'}
        assert won["version"] == read["version"] + 1
        answers = await asyncio.gather(
            *(send(base, "PATCH", path, manager, {field: value.format(n)}, ANY) for n in range(100, 120))
        )
        assert {body["version"] for _, _, body in answers} == {won["version"] + 1 + n for n in range(20)}
        assert len(told(database_url)) - before == (0 if path == "/api/settings" else 21)


@pytest.mark.parametrize(
    ("tag", "status"),
    [
        ("{}", 200),
        ('"999", {}', 200),
        ("*", 200),
        ("W/{}", 412),
        ('"0"', 412),
        ('"3;drop"', 412),
        ('"3; drop table leads"', 400),
        ('""', 400),
        (f'"{"9" * 400}"', 412),
        ("3", 400),
        ("", 400),
        (None, 428),
    ],
)
async def test_if_match(base, make_token, lead, tag, status):
    _, headers, _ = await send(base, "PATCH", lead, make_token(), {}, ANY)
    given = [] if tag is None else [if_match(tag.format(headers["ETag"]))]
    got, answered, problem = await send(base, "PATCH", lead, make_token(), {"name": "New"}, *given)
    assert got == status
    if status == 412:
        assert answered["ETag"] == headers["ETag"]
    if status in {400, 428}:
        assert "If-Match" in problem["detail"]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("application/merge-patch+json", 200),
        ("application/json-patch+json", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("nonsense", 415),
    ],
)
async def test_kinds_of_bodies(base, make_token, lead, kind, status):
    got, headers, problem = await send(base, "PATCH", lead, make_token(), {}, ANY, ("Content-Type", kind))
    assert got == status
    if status == 415:
        assert headers["Accept-Patch"] == "application/json, application/merge-patch+json"
        assert "application/merge-patch+json" in problem["detail"]


HOSTILE = [
    (b"", "body"),
    (b"[]", "body"),
    (b"null", "body"),
    (b'"name"', "body"),
    (b"{}{}", "body"),
    (b"\xff\xfe{\x00}\x00", "body"),
    (DEEP, "body"),
    (b'{"x":' + DEEP, "body"),
    (b'{"' + b"x" * 900_000 + b'": 1}', "xxx"),
    (json.dumps({"version": 7}).encode(), "version"),
    (json.dumps({"tenant_id": "other"}).encode(), "tenant_id"),
]
STRINGS = [
    (b'"%s":' + DEEP, "body"),
    (b'"%s": "\xff"', "body"),
    (rb'"%s": "\ud800"', "body"),
    (rb'"%s": "a\u0000b"', "{}"),
    (rb'"%s": "a\u001b[2J"', "{}"),
    (b'"%s": "  "', "{}"),
    (b'"%s": ""', "{}"),
    (b'"%s": 7', "{}"),
    (b'"%s": true', "{}"),
    (b'"%s": ["x"]', "{}"),
    (b'"%s": {"x": 1}', "{}"),
    (b'"%s": 1' + b"0" * 400, "{}"),
    (b'"%s": 1e999', "body"),
    (f'"%s": "{LONG}"'.encode(), "{}"),
]


def hostile(*fields: str) -> list[tuple[bytes, str]]:
    return HOSTILE + [
        (b"{" + body.replace(b"%s", field.encode()) + b"}", where.format(field))
        for field in fields
        for body, where in STRINGS
    ]


async def refused(base, path, token, bodies, method="PATCH"):
    for body, where in bodies:
        status, _, problem = await send(base, method, path, token, body, ANY)
        assert status == 400, (body[:80], problem)
        assert problem["detail"].startswith(where), (body[:80], problem)
        assert len(problem["detail"]) < 1_000


async def test_a_body_that_cannot_be_meant_is_400_and_names_the_field(base, make_token, lead, task, database_url):
    before = told(database_url)
    await refused(base, lead, make_token(), hostile("name"))
    await refused(base, task, make_token(), [*hostile("assigned_to", "status"), (b'{"status":"closed"}', "status")])
    await refused(base, f"{lead}/messages", make_token(), [*hostile("body"), (b"{}", "body")], "POST")
    assert told(database_url) == before


NO_SETTINGS = [
    {"name": None},
    {"name": "a\nb"},
    {"timezone": "Mars/Olympus"},
    {"timezone": "../../etc/passwd"},
    {"timezone": None},
    {"hours": "Mon-Fri 17:00-09:00"},
    {"hours": "sometimes"},
    {"hours": ""},
    {"holidays": ["2026-02-30"]},
    {"holidays": "2026-12-25"},
    {"holidays": [20261225]},
    {"holidays": ["2026-12-25T00:00:00Z"]},
    {"holidays": [f"2026-12-{day:02}" for day in range(1, 32)] * 12},
    {"texts_enabled": "yes"},
    {"texts_enabled": None},
    {"first_text": "Hi {name}"},
    {"first_text": "Hi {company"},
    {"first_text": "Hi company}"},
    {"first_text": "Hi {{company}}"},
    {"follow_up_text": "x" * 481},
    {"sla_minutes": 0},
    {"sla_minutes": 2881},
    {"sla_minutes": 1.5},
    {"sla_minutes": True},
    {"sla_minutes": None},
    {"sla_minutes": 10**30},
]


async def test_settings_that_make_no_sense_are_refused(base, make_token):
    manager = make_token(role=Role.MANAGER)
    bodies = [(json.dumps(body).encode(), next(iter(body))) for body in NO_SETTINGS]
    fields = ("name", "timezone", "hours", "first_text", "follow_up_text")
    await refused(base, "/api/settings", manager, [*bodies, *hostile(*fields)])


async def test_settings_are_the_managers(base, make_token, db, database_url):
    await add_tenant(db, "other", company="424242", number="+14045550199")
    wanted = {
        "name": "Demo & Söhne",
        "timezone": "Europe/Vienna",
        "hours": "Mon-Thu 08:00-17:00, Sat 09:00-12:00",
        "holidays": ["2026-12-26", "2026-12-25", "2026-12-26"],
        "texts_enabled": False,
        "first_text": "{company}: sorry!\nWe call back.",
        "follow_up_text": "Still there? {company}",
        "sla_minutes": 2880,
    }
    sql = "select settings_json(t) from tenants t"
    others = of_tenant(database_url, sql, tenant="other")
    assert (await send(base, "PATCH", "/api/settings", make_token(), wanted, ANY))[0] == 403
    before = told(database_url)
    status, headers, body = await send(base, "PATCH", "/api/settings", make_token(role=Role.SERVICE), wanted, ANY)
    assert status == 200
    assert body == {**wanted, "holidays": ["2026-12-25", "2026-12-26"], "id": "demo", "version": 2}
    assert of_tenant(database_url, sql) == [(body,)]
    assert headers["ETag"] == '"2"'
    back = {"first_text": None, "holidays": [], "texts_enabled": True}
    manager = make_token(role=Role.MANAGER)
    _, _, after = await send(base, "PATCH", "/api/settings", manager, back, if_match(headers["ETag"]))
    assert after == {**body, **back, "version": 3}
    assert told(database_url) == before
    assert of_tenant(database_url, sql, tenant="other") == others


async def test_a_task_is_taken_done_and_opened_again(base, make_token, task, database_url):
    async with connect(base, make_token()) as socket:
        await socket.subscribe("user:ann:tasks")
        _, _, mine = await send(base, "PATCH", task, make_token(), {"assigned_to": "me"}, ANY)
        assert (await socket.event())["data"] == mine
        assert (mine["assigned_to"], mine["status"]) == ("ann", "open")
        _, _, done = await send(base, "PATCH", task, make_token(user="bob"), {"status": "done"}, ANY)
        assert (await socket.event())["data"] == done
        assert (done["status"], done["completed_by"], done["assigned_to"]) == ("done", "bob", "ann")
        assert done["completed_at"] == done["updated_at"] > mine["updated_at"]
        _, _, given = await send(base, "PATCH", task, make_token(), {"assigned_to": "eve"}, ANY)
        assert (given["completed_by"], given["completed_at"]) == ("bob", done["completed_at"])
        _, _, opened = await send(base, "PATCH", task, make_token(), {"status": "open", "assigned_to": None}, ANY)
        assert {opened[name] for name in ("completed_by", "completed_at", "assigned_to")} == {None}
    updates = [(user, version) for event, user, version in told(database_url) if event == "task.updated"]
    assert updates == [("ann", 2), ("ann", 3), ("eve", 4), ("eve", 5)]


async def test_who_was_called_back_is_no_longer_chased(base, make_token, task, database_url):
    await deliver(base, "call-complete", report("call-complete", 7002, customer_phone_number="+12125550188"))
    status, _, _ = await send(base, "PATCH", task, make_token(), {"status": "done"}, ANY)
    assert status == 200
    rescues = of_tenant(database_url, "select c.external_id, m.status, m.ended_by from missed_calls m"
                        " join calls c on c.id = m.call_id order by 1")  # fmt: skip
    assert rescues == [("7001", "recovered", "task_done"), ("7002", "queued", None)]
    assert [event for event, _, _ in told(database_url)][-2:] == ["task.updated", "missed_call.recovered"]
    await send(base, "PATCH", task, make_token(), {"status": "open"}, ANY)
    await send(base, "PATCH", task, make_token(), {"status": "done"}, ANY)
    assert [event for event, _, _ in told(database_url)].count("missed_call.recovered") == 1


async def test_other_tasks_end_no_rescue(base, make_token, task, database_url):
    of_tenant(database_url, "update tasks set kind = 'text_unclear' returning 1")
    await send(base, "PATCH", task, make_token(), {"status": "done"}, ANY)
    assert of_tenant(database_url, "select status from missed_calls") == [("queued",)]


async def test_what_is_another_tenants_is_not_there(base, make_token, lead, task, db, database_url):
    await add_tenant(db, "other", company="424242", number="+14045550199")
    before = told(database_url)
    stranger, nobodys = make_token("other", role=Role.MANAGER), "11111111-1111-4111-8111-111111111111"
    for method, path, body in (
        ("PATCH", lead, {"name": "Mine"}),
        ("PATCH", task, {"status": "done"}),
        ("POST", f"{lead}/messages", {"body": "Hi"}),
    ):
        status, _, problem = await send(base, method, path, stranger, body, ANY, ("Idempotency-Key", "k"))
        missing = path.replace(path.split("/")[3], nobodys)
        _, _, same = await send(base, method, missing, stranger, body, ANY, ("Idempotency-Key", "k"))
        for name in ("instance", "trace_id"):
            del problem[name], same[name]
        assert (status, problem) == (404, same)
    assert told(database_url) == before

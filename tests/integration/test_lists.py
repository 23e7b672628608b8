"""Lists: filters, pages and cursors; single items and their ETags."""

from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ottoai.domain.catalogue import Call, Lead, Message, MissedCall, Settings, Task
from ottoai.web.api.reading import Page
from ottoai.web.api.timeline import Happened
from tests.conftest import add_tenant, execute, of_tenant
from tests.helpers import get
from tests.rows import BEGAN, add_call, add_lead, add_message, add_missed, add_task, minutes

MISSING = "11111111-1111-4111-8111-111111111111"


async def ids(base: str, path: str, token: str) -> list[str]:
    """The ids of a page, which must be all there is."""
    status, _, page = await get(base, path, token)
    assert (status, page["next_cursor"]) == (200, None), page
    return [item["id"] for item in page["items"]]


async def refused(base: str, path: str, token: str) -> str:
    """The field that a refusal names."""
    status, headers, problem = await get(base, path, token)
    assert (status, headers["Content-Type"]) == (400, "application/problem+json"), problem
    return problem["detail"].partition(":")[0]


# Filters


@pytest.fixture
def calls(database_url: str, demo: str) -> dict[str, str]:
    """Four calls of two leads, oldest first: their ids by a word for each."""
    ann = add_lead(database_url, phone="+14045550901", name="Ann O'Neil")
    bob = add_lead(database_url, phone="+442079460123", name="Bob")
    named = {"lead_id": ann, "customer_phone": "+14045550901", "customer_name": "Ann O'Neil"}
    return {
        "ann": ann,
        "bob": bob,
        "missed": add_call(database_url, **named, answered=False, missed=True, started_at=minutes(0)),
        "out": add_call(database_url, **named, direction="outbound", started_at=minutes(1)),
        "bobs": add_call(
            database_url, lead_id=bob, customer_phone="+442079460123", customer_name="ÉMILE_50%", started_at=minutes(2)
        ),
        "ringing": add_call(database_url, status="ringing", answered=None, started_at=minutes(3)),
    }


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", "ringing bobs out missed"),
        ("status=ringing", "ringing"),
        ("status=routed", ""),
        ("direction=outbound", "out"),
        ("answered=false", "missed"),
        ("answered=true", "bobs out"),
        ("missed=true", "missed"),
        ("missed=false&answered=true&direction=inbound", "bobs"),
        ("phone=%2B14045550901", "out missed"),
        ("phone=(404) 555-0901", "out missed"),
        ("phone=404.555.0901&missed=true", "missed"),
        ("phone=%2B44 20 7946 0123", "bobs"),
        ("name=ann", "out missed"),
        ("name=ANN O'N", "out missed"),
        ("name=nn", ""),
        ("name=émile_5", "bobs"),
        ("name=émile_50%25", "bobs"),
        ("name=%25", ""),
        ("name=émile%255", ""),
        ("name=_", ""),
        ("name='; drop table calls --", ""),
        ("since=2026-03-02T12:01:00Z", "ringing bobs out"),
        ("until=2026-03-02T12:01:00Z", "missed"),
        ("since=2026-03-02T13:01:00%2B01:00&until=2026-03-02T12:02:00Z", "out"),
        ("lead_id=ANN", "out missed"),
        (f"lead_id={MISSING}", ""),
    ],
)
async def test_calls_are_filtered(base, make_token, calls, query, found):
    query = query.replace("=ANN", f"={calls['ann'].upper()}") if "lead_id" in query else query
    wanted = [calls[word] for word in found.split()]
    assert await ids(base, f"/api/calls?{quote(query, safe='=&%')}", make_token()) == wanted


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", "bob ann"),
        ("phone=1 (404) 555 0901", "ann"),
        ("phone=tel:%2B44-20-7946-0123", "bob"),
        ("name=bO", "bob"),
        ("name=x", ""),
        ("name=ann&phone=4045550901", "ann"),
    ],
)
async def test_leads_are_filtered(base, make_token, calls, database_url, query, found):
    of_tenant(database_url, "update leads set last_contact_at = %s where id = %s", minutes(5), calls["bob"])
    wanted = [calls[word] for word in found.split()]
    assert await ids(base, f"/api/leads?{quote(query, safe='=&%')}", make_token()) == wanted


async def test_tasks_are_filtered(base, make_token, database_url, demo):
    lead = add_lead(database_url)
    mine = add_task(database_url, assigned_to="ann", lead_id=lead, created_at=minutes(1))
    done = add_task(database_url, assigned_to="bob", status="done", kind="other", created_at=minutes(2))
    free = add_task(database_url, created_at=minutes(3))
    for query, wanted in {
        "": [free, done, mine], "status=open": [free, mine], "status=done": [done], "assigned_to=me": [mine],
        "assigned_to=bob": [done], "assigned_to=bob&status=open": [], "kind=other": [done], f"lead_id={lead}": [mine],
    }.items():  # fmt: skip
        assert await ids(base, f"/api/tasks?{query}", make_token(user="ann")) == wanted, query
    assert await ids(base, "/api/tasks?assigned_to=me", make_token(user="bob")) == [done]


async def test_missed_calls_are_filtered(base, make_token, database_url, demo):
    ann, bob = add_lead(database_url), add_lead(database_url)
    first = add_missed(database_url, ann, called_at=minutes(1))
    second = add_missed(database_url, bob, called_at=minutes(2), status="recovered")
    for query, wanted in {
        "": [second, first], "status=recovered": [second], f"lead_id={ann}": [first],
        f"lead_id={ann}&status=expired": [],
        "since=2026-03-02T12:02:00Z": [second], "until=2026-03-02T12:02:00Z": [first],
    }.items():  # fmt: skip
        assert await ids(base, f"/api/missed-calls?{query}", make_token()) == wanted, query


@pytest.mark.parametrize(
    "path",
    [
        "/api/calls?limit=0", "/api/calls?limit=201", "/api/calls?limit=-1", "/api/calls?limit=1e1",
        "/api/calls?limit=",
        "/api/calls?limit=99999999999999999999", "/api/leads?limit=%2B5", "/api/tasks?limit=null",
        "/api/calls?cursor=nonsense", "/api/calls?cursor=%ff", "/api/calls?status=gone", "/api/calls?status=",
        "/api/calls?status=null", "/api/calls?direction=up", "/api/calls?answered=yes", "/api/calls?missed=1",
        "/api/calls?lead_id=7", "/api/calls?phone=nobody", "/api/calls?phone=", "/api/leads?phone=12",
        "/api/leads?name=",
        f"/api/calls?name={'x' * 101}", "/api/calls?since=yesterday", "/api/calls?since=123",
        "/api/calls?since=2026-03-02T12:00:00", "/api/calls?until=2026-02-30T00:00:00Z", "/api/tasks?status=ringing",
        "/api/tasks?assigned_to=", "/api/missed-calls?status=done", "/api/missed-calls?phone=4045550901",
        "/api/calls?q=x", "/api/calls?tenant_id=demo", "/api/leads?status=x",
    ],
)  # fmt: skip
async def test_what_is_wrong_is_named(base, make_token, path):
    wrong = path.partition("?")[2].partition("=")[0]
    assert await refused(base, path, make_token()) == wrong


async def test_a_parameter_counts_once(base, make_token):
    assert await refused(base, "/api/calls?status=ringing&limit=5&status=routed", make_token()) == "status"


async def test_moments_at_the_ends_of_time_are_taken(base, make_token, calls):
    far = "since=0001-01-01T00:00:00%2B14:00&until=9999-12-31T23:59:59-14:00"
    assert len(await ids(base, f"/api/calls?{far}", make_token())) == 4


# Pages


async def walk(base: str, path: str, token: str, limit: int = 2) -> list[dict[str, Any]]:
    """All items of a list, page by page."""
    found, cursor = [], ""
    while True:
        sign = "&" if "?" in path else "?"
        status, _, page = await get(base, f"{path}{sign}limit={limit}{cursor}", token)
        assert (status, len(page["items"]) <= limit) == (200, True), page
        found += page["items"]
        if page["next_cursor"] is None:
            return found
        assert len(page["items"]) == limit
        cursor = f"&cursor={page['next_cursor']}"


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7])
async def test_pages_of_rows_of_one_moment(base, make_token, database_url, demo, limit):
    made = {add_call(database_url, started_at=BEGAN) for _ in range(6)}
    found = [item["id"] for item in await walk(base, "/api/calls", make_token(), limit)]
    assert found == sorted(made, reverse=True)


KINDS = ("calls", "messages", "missed_calls", "tasks", "timeline")
PATHS = {
    "calls": "/api/calls?lead_id={}", "messages": "/api/leads/{}/messages",
    "missed_calls": "/api/missed-calls?lead_id={}",
    "tasks": "/api/tasks?lead_id={}", "timeline": "/api/leads/{}/timeline",
}  # fmt: skip


def plant(url: str, kind: str, lead: str, minute: int) -> str:
    at = minutes(minute)
    match kind:
        case "calls":
            return add_call(url, lead_id=lead, started_at=at)
        case "messages":
            return add_message(url, lead, created_at=at)
        case "missed_calls":
            return add_missed(url, lead, called_at=at)
    return add_task(url, lead_id=lead, created_at=at)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(KINDS),
    limit=st.integers(1, 4),
    before=st.lists(st.integers(0, 5), max_size=8),  # minutes; many are the same
    meanwhile=st.lists(st.lists(st.integers(-3, 9), max_size=3), max_size=6),  # what is added after each page
)
@example(kind="timeline", limit=1, before=[0, 0, 0, 0, 1, 2, 3, 4], meanwhile=[[9, 0], [-1, 0], [0]])
@example(kind="calls", limit=2, before=[0, 0, 0, 0, 0], meanwhile=[[0, 0], [0, 0], [0]])
async def test_every_row_comes_once_whatever_is_added_meanwhile(
    base, make_token, database_url, demo, kind, limit, before, meanwhile
):
    lead = add_lead(database_url)
    sort = [each for each in KINDS if each != "timeline"]
    of = (lambda n: sort[n % 4]) if kind == "timeline" else (lambda _: kind)
    there = {plant(database_url, of(n), lead, minute) for n, minute in enumerate(before)}
    found, cursor, path = [], None, PATHS[kind].format(lead)
    while True:
        query = f"limit={limit}" + (f"&cursor={cursor}" if cursor else "")
        _, _, page = await get(base, f"{path}{'&' if '?' in path else '?'}{query}", make_token())
        found += [item.get("item", item)["id"] for item in page["items"]]
        assert len(found) == len(set(found)), "nothing comes twice"
        cursor = page["next_cursor"]
        if cursor is None:
            break
        for n, minute in enumerate(meanwhile.pop(0) if meanwhile else ()):
            plant(database_url, of(n), lead, minute)
    assert there <= set(found), "nothing is left out"


async def test_a_cursor_is_of_its_list_and_filters(base, make_token, database_url, demo):
    lead, other = add_lead(database_url), add_lead(database_url)
    for minute in range(3):
        plant(database_url, "calls", lead, minute)
        plant(database_url, "messages", lead, minute)
    _, _, page = await get(base, f"/api/calls?lead_id={lead}&limit=1", make_token())
    cursor = page["next_cursor"]
    for path in (
        "/api/calls?", f"/api/calls?lead_id={other}&", f"/api/calls?lead_id={lead}&answered=true&", "/api/leads?",
        f"/api/leads/{lead}/messages?", f"/api/leads/{lead}/timeline?", f"/api/missed-calls?lead_id={lead}&",
    ):  # fmt: skip
        assert await refused(base, f"{path}cursor={cursor}", make_token()) == "cursor", path
    status, _, page = await get(base, f"/api/calls?limit=5&lead_id={lead}&cursor={cursor}", make_token())
    assert (status, len(page["items"]), page["next_cursor"]) == (200, 2, None), "the size of a page may change"


async def test_a_cursor_of_another_tenant_is_but_a_moment(base, make_token, database_url, demo, db):
    await add_tenant(db, "other", company="77", number="+12125550188")
    for tenant in ("demo", "other"):
        for minute in range(3):
            add_call(database_url, tenant, started_at=minutes(minute))
    _, _, foreign = await get(base, "/api/calls?limit=1", make_token("other"))
    own = [item["id"] for item in await walk(base, "/api/calls", make_token())]
    assert set(await ids(base, f"/api/calls?cursor={foreign['next_cursor']}", make_token())) <= set(own)


# What a lead has


async def test_a_timeline_is_of_all_kinds_and_newest_first(base, make_token, database_url, demo):
    lead, other = add_lead(database_url), add_lead(database_url)
    missed = add_missed(database_url, lead, called_at=minutes(1))
    [(call,)] = of_tenant(database_url, "select call_id::text from missed_calls where id = %s", missed)
    text = add_message(database_url, lead, created_at=minutes(2))
    task = add_task(database_url, lead_id=lead, created_at=minutes(3))
    later = add_call(database_url, lead_id=lead, started_at=minutes(4))
    for kind in ("calls", "messages", "missed_calls", "tasks"):
        plant(database_url, kind, other, 5)
    found = await walk(base, f"/api/leads/{lead}/timeline", make_token(), 2)
    assert [(each["kind"], each["item"]["id"]) for each in found][:3] == [
        ("call", later), ("task", task), ("message", text),
    ]  # fmt: skip
    assert {(each["kind"], each["item"]["id"]) for each in found[3:]} == {("call", call), ("missed_call", missed)}
    assert [each["at"] for each in found] == sorted((each["at"] for each in found), reverse=True)


@pytest.mark.parametrize("what", ["messages", "timeline"])
async def test_what_a_lead_has_is_not_told_of_foreign_or_missing_ones(base, make_token, database_url, demo, db, what):
    await add_tenant(db, "other", company="77", number="+12125550188")
    foreign, empty = add_lead(database_url, "other"), add_lead(database_url)
    add_message(database_url, foreign, "other")
    assert (await get(base, f"/api/leads/{empty}/{what}", make_token()))[2] == {"items": [], "next_cursor": None}
    answers = []
    for _ in range(2):  # the second time, too
        for wanted in (foreign, foreign.upper(), MISSING, "no-uuid", "%27--"):
            status, _, problem = await get(base, f"/api/leads/{wanted}/{what}", make_token())
            answers.append((status, problem["type"], problem["detail"]))
    assert set(answers) == {(404, "/docs/problems/not-found", "There is nothing here by that id.")}
    assert len(await ids(base, f"/api/leads/{foreign}/messages", make_token("other"))) == 1


# Types, single items


async def test_answers_have_the_declared_types(base, make_token, database_url, demo):
    lead = add_lead(database_url, name="Ann")
    missed = add_missed(database_url, lead)
    [(call,)] = of_tenant(database_url, "select call_id::text from missed_calls")
    add_message(database_url, lead)
    task = add_task(database_url, lead_id=lead)
    for path, kind in {
        "/api/calls": Page[Call], "/api/leads": Page[Lead], "/api/tasks": Page[Task],
        "/api/missed-calls": Page[MissedCall],
        f"/api/leads/{lead}/messages": Page[Message], f"/api/leads/{lead}/timeline": Page[Happened],
        f"/api/calls/{call}": Call, f"/api/leads/{lead}": Lead, f"/api/tasks/{task}": Task,
        f"/api/missed-calls/{missed}": MissedCall, "/api/settings": Settings,
    }.items():  # fmt: skip
        _, _, body = await get(base, path, make_token())
        told = msgspec.convert(body, kind)
        assert not isinstance(told, Page) or told.items, path


async def test_an_item_is_not_sent_to_who_has_it(base, make_token, database_url, demo):
    lead = add_lead(database_url, name="Ann")
    task = add_task(database_url, lead_id=lead)
    for path, table in (
        (f"/api/leads/{lead}", "leads"),
        (f"/api/tasks/{task}", "tasks"),
        ("/api/settings", "tenants"),
    ):
        status, headers, item = await get(base, path, make_token())
        assert (status, headers["ETag"]) == (200, f'"{item["version"]}"')
        assert headers["Vary"] == "Authorization"
        for known in (headers["ETag"], f"W/{headers['ETag']}", '"x", "1"', "*"):
            status, again, nothing = await get(base, path, make_token(), **{"If-None-Match": known})
            assert (status, again["ETag"], nothing) == (304, headers["ETag"], None)
        assert again["Cache-Control"] == "private, no-cache"
        sql = f"update {table} set version = version + 1"
        (execute if table == "tenants" else of_tenant)(database_url, sql)
        status, headers, item = await get(base, path, make_token(), **{"If-None-Match": headers["ETag"]})
        assert (status, headers["ETag"], item["version"]) == (200, '"2"', 2)


async def test_settings_are_the_own_tenants(base, make_token, demo, db):
    await add_tenant(db, "other", company="77", number="+12125550188", hours="Mon-Fri 09:00-17:00")
    assert (await get(base, "/api/settings", make_token()))[2] == {
        "id": "demo", "name": "Demo", "timezone": "America/New_York", "hours": "always", "holidays": [],
        "texts_enabled": True, "first_text": None, "follow_up_text": None, "sla_minutes": 120, "version": 1,
    }  # fmt: skip
    assert (await get(base, "/api/settings", make_token("other")))[2]["hours"] == "Mon-Fri 09:00-17:00"
    assert (await get(base, "/api/settings", make_token("ghost")))[0] == 404


async def test_head_tells_what_get_does(base, make_token, database_url, demo):
    add_call(database_url)
    headers = {"Authorization": f"Bearer {make_token()}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for path in ("/api/calls", "/api/settings"):
            async with session.get(base + path) as told, session.head(base + path) as short:
                assert (short.status, short.headers["ETag"]) == (200, told.headers["ETag"])
                assert int(short.headers["Content-Length"]) == len(await told.read())


async def test_a_lead_that_moves_up_does_not_come_twice(base, make_token, database_url, demo):
    """Leads are ordered by their latest contact, which changes: one that had not come yet is at the front then."""
    leads = [add_lead(database_url, last_contact_at=minutes(n)) for n in range(4)]
    _, _, page = await get(base, "/api/leads?limit=2", make_token())
    assert [item["id"] for item in page["items"]] == [leads[3], leads[2]]
    of_tenant(database_url, "update leads set last_contact_at = %s where id = %s", minutes(9), leads[2])
    of_tenant(database_url, "update leads set last_contact_at = %s where id = %s", minutes(8), leads[1])
    assert await ids(base, f"/api/leads?cursor={page['next_cursor']}", make_token()) == [leads[0]]

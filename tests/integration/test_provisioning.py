"""Clerk tells of organisations, users and who belongs where, in any order, and twice: what happened last counts."""

import asyncio
import base64
import random
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import msgspec
import pytest

from jobs import retention
from ottoai.client import connect
from ottoai.db import queries
from ottoai.domain import tenants, users
from ottoai.domain.catalogue import EVENTS
from ottoai.domain.roles import Role
from ottoai.errors import StoreUnavailable
from ottoai.web import keys
from ottoai.webhooks import provision
from tests.conftest import add_tenant, execute, make_config, of_tenant
from tests.integration.test_clerk import WEBHOOK_SECRET, event, revoked, tell, token_of, works
from tests.unit.test_clerk import BODY, MESSAGE, SECRET, SENT, SIGNATURE

SVIX = "whsec_" + base64.b64encode(b"another secret of 24 byte").decode()
BEGAN = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)


@pytest.fixture
def config(database_url, redis_url):
    settings = {"CLERK_WEBHOOK_SECRET": f"{WEBHOOK_SECRET},{SECRET}", "TENANT_TIMEZONE": "America/Chicago"}
    return make_config(database_url, redis_url, **settings)


def at(minute: float) -> datetime:
    return BEGAN + timedelta(minutes=minute)


def organisation(what: str, minute: float, name: str = "Acme", org: str = "org_1") -> dict[str, Any]:
    data = {"id": org, "object": "organization", "name": name, "slug": "acme", "created_at": 1, "updated_at": 2}
    return event(f"organization.{what}", data if what != "deleted" else {"id": org, "deleted": True}, at(minute))


def member(
    what: str,
    minute: float,
    *,
    role: str = "org:member",
    first: str | None = "Ann",
    last: str | None = "Archer",
    org: str = "org_1",
    user: str = "ann",
) -> dict[str, Any]:
    data = {
        "id": "orgmem_1",
        "organization": {"id": org, "name": "Acme", "members_count": 3},
        "public_user_data": {
            "user_id": user,
            "first_name": first,
            "last_name": last,
            "identifier": "private@example.org",
            "image_url": "https://img.example/private",
        },
        "role": role,
    }
    return event(f"organizationMembership.{what}", data, at(minute))


def person(what: str, minute: float, first: str | None = "Ann", last: str | None = "Archer", user: str = "ann") -> Any:
    data = {"id": user, "first_name": first, "last_name": last, "banned": False, "phone_numbers": ["private"],
            "email_addresses": [{"email_address": "private@example.org"}]}  # fmt: skip
    return event(f"user.{what}", data if what != "deleted" else {"id": user, "deleted": True}, at(minute))


_numbers = iter(range(1, 10**9))


async def say(base: str, *told: dict[str, Any]) -> list[str]:
    """Tell of events, each with an id of its own; their statuses."""
    return [(await tell(base, each, message=f"msg_{next(_numbers)}"))[1]["status"] for each in told]


def staff(url: str, tenant: str = "org_1") -> dict[str, tuple[Any, ...]]:
    """user: (name, role, active)."""
    rows = of_tenant(url, "select user_id, name, role, member and not gone from users order by 1", tenant=tenant)
    return {str(row[0]): row[1:] for row in rows}


def log(url: str, tenant: str = "org_1") -> list[tuple[object, ...]]:
    """(event, name, role, active) of each event."""
    sql = "select event, data ->> 'name', data ->> 'role', (data ->> 'active')::boolean from events order by seq"
    return of_tenant(url, sql, tenant=tenant)


# Tenants


async def test_an_organisation_is_a_tenant_with_the_usual_hours(base, demo, database_url, caplog):
    status, answer = await tell(base, organisation("created", 0), message="msg_a")
    assert (status, answer) == (
        200,
        {"status": "processed", "provider": "clerk", "kind": "organization.created", "external_id": "msg_a",
         "tenant_id": "org_1"},
    )  # fmt: skip
    [row] = execute(database_url, "select name, timezone, hours, version from tenants where id = 'org_1'")
    assert row == ("Acme", "America/Chicago", "Mon-Fri 09:00-17:00", 1)
    [(hook,)] = execute(database_url, "select value from tenant_routes where tenant_id = 'org_1' and kind = 'hook'")
    assert len(str(hook)) >= 24
    assert of_tenant(database_url, "select seq from heads", tenant="org_1") == [(0,)]
    assert (await tell(base, organisation("created", 0), message="msg_a"))[1]["status"] == "duplicate_ignored"
    keys_kept = of_tenant(
        database_url, "select provider, kind, external_id, outcome from idempotency_keys", tenant="org_1"
    )
    assert keys_kept == [("clerk", "organization.created", "msg_a", "processed")]


async def test_its_users_can_come_in_at_once(app, base, demo, make_token):
    await say(base, organisation("created", 0), member("created", 1))
    async with connect(base, make_token("org_1", "ann")) as socket:
        await socket.send(type="subscribe", channel="tenant:org_1:events")
        await socket.answer("subscribe_result")


async def test_it_is_renamed_but_not_by_what_was_overtaken(base, demo, database_url):
    def name() -> object:
        return execute(database_url, "select name, version from tenants where id = 'org_1'")

    told = [organisation("created", 0, "One"), organisation("updated", 10, "Three"), organisation("updated", 5, "Two")]
    assert await say(base, *told) == ["processed"] * 3
    assert name() == [("Three", 2)]
    await say(base, organisation("updated", 11, "Three"))
    assert name() == [("Three", 2)]  # nothing changed


async def test_a_tenant_that_an_operator_added_is_the_same(db, base, demo, database_url):
    await add_tenant(db, "org_1", company="78", number="+12125550199", hours="Sat 10:00-12:00")
    await say(base, organisation("updated", 0, "Acme & Sons"), member("created", 1))
    [row] = execute(database_url, "select name, timezone, hours from tenants where id = 'org_1'")
    assert row == ("Acme & Sons", "America/New_York", "Sat 10:00-12:00")
    assert list(staff(database_url)) == ["ann"]


@pytest.mark.parametrize(
    ("given", "kept"), [("  Acme\x00\n \u202eRoofing ", "Acme Roofing"), (" ", "org_1"), ("x" * 900, "x" * 200)]
)
async def test_odd_names_fit(base, demo, database_url, given, kept):
    assert await say(base, organisation("created", 0, given)) == ["processed"]
    assert execute(database_url, "select name from tenants where id = 'org_1'") == [(kept,)]


@pytest.mark.parametrize(
    ("body", "field"),
    [(event("organization.created", {"id": "org/1", "name": "x"}), "id"),
     (event("organization.created", {"id": "org_1"}), "name"),
     (event("organizationMembership.created", {"organization": {"id": "org_1"}}), "public_user_data"),
     (event("user.created", {"id": "ann", "first_name": 7}), "data.first_name")],
)  # fmt: skip
async def test_what_cannot_be_used_is_refused_and_changes_nothing(base, demo, database_url, body, field):
    status, problem = await tell(base, body)
    assert status == 400
    assert field in problem["detail"]
    assert execute(database_url, "select count(*) from tenants") == [(1,)]


async def test_a_deleted_organisation_keeps_its_data(app, base, demo, database_url):
    await say(base, organisation("created", 0), member("created", 1))
    before = (staff(database_url), log(database_url))
    token = token_of("org_1", "ann", at(2))
    assert await works(app, base, token)
    assert await say(base, organisation("deleted", 3)) == ["processed"]
    assert not await works(app, base, token)
    assert (staff(database_url), log(database_url)) == before
    assert execute(database_url, "select count(*) from tenants where id = 'org_1'") == [(1,)]


# Users


async def test_a_member_comes_changes_and_goes_and_everybody_hears_of_it(base, demo, make_token, database_url):
    await say(base, organisation("created", 0))
    async with connect(base, make_token("org_1", "ben")) as socket, connect(base, make_token("org_1", "ann")) as ann:
        await socket.send(type="subscribe", channel="tenant:org_1:events")
        await ann.send(type="subscribe", channel="user:ann:tasks")
        for each in (socket, ann):
            await each.answer("subscribe_result")
        await say(
            base,
            person("created", 0),
            member("created", 1),
            member("updated", 2, role="org:admin"),
            person("updated", 3, "Anna"),
            member("deleted", 4, role="org:admin", first="Anna"),
            member("created", 5, first="Anna"),
        )
        told = [await socket.answer("event") for _ in range(5)]
        assert [message["seq"] for message in told] == [1, 2, 3, 4, 5]
        assert all(message["user_id"] == "ann" for message in told)
        await ann.answer("event")
    assert log(database_url) == [
        ("identity.user.created", "Ann Archer", "member", True),
        ("identity.user.updated", "Ann Archer", "manager", True),
        ("identity.user.updated", "Anna Archer", "manager", True),
        ("identity.user.updated", "Anna Archer", "manager", False),
        ("identity.user.updated", "Anna Archer", "member", True),
    ]
    assert all(msgspec.convert(message["data"], EVENTS[message["event"]]) for message in told)


async def test_of_a_person_the_name_is_kept_and_nothing_else(base, demo, database_url):
    await say(base, member("created", 1), organisation("created", 0), member("updated", 2), person("updated", 3))
    assert staff(database_url) == {"ann": ("Ann Archer", "member", True)}
    tables = ("users", "clerk_users", "events", "idempotency_keys", "payloads", "unclaimed_deliveries", "revocations")
    for table in tables:
        rows = execute(database_url, f"select to_jsonb(t)::text from {table} t")
        assert "private" not in str(rows), table
    await say(base, member("created", 4, org="org_2"))
    assert "private" not in str(execute(database_url, "select convert_from(body, 'UTF8') from unclaimed_deliveries"))


async def test_a_user_that_is_gone_has_no_name_and_works_nowhere(base, demo, database_url):
    await say(base, organisation("created", 0), organisation("created", 0, org="org_2"))
    await say(
        base,
        member("created", 1),
        member("created", 1, org="org_2"),
        member("created", 1, user="ben", first="Ben", last=None),
    )
    assert await say(base, person("deleted", 5)) == ["processed"]
    for tenant in ("org_1", "org_2"):
        assert staff(database_url, tenant)["ann"] == (None, "member", False)
        assert log(database_url, tenant)[-1] == ("identity.user.updated", None, "member", False)
    assert staff(database_url)["ben"] == ("Ben", "member", True)
    assert await say(base, person("updated", 4), member("updated", 3, first="Late")) == ["processed"] * 2
    assert staff(database_url)["ann"] == (None, "member", False)


async def test_each_tenant_has_its_own_row_and_hears_of_its_own_users_only(base, demo, database_url):
    await say(base, organisation("created", 0), organisation("created", 0, org="org_2"))
    await say(base, member("created", 1), member("created", 2, org="org_2", role="org:admin"))
    assert await say(base, person("updated", 3, "Anna"), person("updated", 3, user="stranger")) == ["processed"] * 2
    assert staff(database_url) == {"ann": ("Anna Archer", "member", True)}
    assert staff(database_url, "org_2") == {"ann": ("Anna Archer", "manager", True)}
    await say(base, member("deleted", 4))
    assert staff(database_url)["ann"][2] is False
    assert staff(database_url, "org_2")["ann"][2] is True
    assert log(database_url, "demo") == []


async def test_told_twice_is_done_once(base, demo, database_url):
    await say(base, organisation("created", 0))
    told = {"msg_m": member("created", 1), "msg_u": person("updated", 2, "Anna"), "msg_d": member("deleted", 3)}
    for status in ("processed", "duplicate_ignored"):
        for message, body in told.items():
            assert (await tell(base, body, message=message))[1]["status"] == status
    before = of_tenant(database_url, "select * from users", tenant="org_1")
    answers = await asyncio.gather(*(tell(base, body, message=message) for message, body in [*told.items()] * 10))
    assert {answer["status"] for _, answer in answers} == {"duplicate_ignored"}
    assert of_tenant(database_url, "select * from users", tenant="org_1") == before
    assert len(log(database_url)) == 3


async def test_copies_at_the_same_moment_are_one(base, demo, database_url):
    await say(base, organisation("created", 0))
    answers = await asyncio.gather(*(tell(base, member("created", 1), message="msg_m") for _ in range(10)))
    assert sorted(answer["status"] for _, answer in answers) == ["duplicate_ignored"] * 9 + ["processed"]
    assert len(log(database_url)) == 1


# In any order


TALE = [
    organisation("created", 0, "One"),
    organisation("updated", 6, "Two"),
    person("created", 1, "Ann", "Archer"),
    member("created", 2, first="Ann"),
    member("updated", 4, role="org:admin", first="Ann"),
    person("updated", 5, "Anna", "Archer"),
    member("deleted", 7, role="org:admin", first="Anna"),
    member("created", 8, role="basic_member", first="Anna"),
    person("updated", 9, "Anna", "Baker"),
]


def moved(body: dict[str, Any], org: str, user: str) -> dict[str, Any]:
    """The same event about another organisation and user."""
    text = msgspec.json.encode(body).decode().replace('"org_1"', f'"{org}"').replace('"ann"', f'"{user}"')
    return msgspec.json.decode(text)


async def state(url: str, org: str) -> tuple[Any, ...]:
    [(name,)] = execute(url, "select name from tenants where id = %s", org)
    [shown] = staff(url, org).values()
    return name, *shown


async def converges(base: str, url: str, tale: list[dict[str, Any]], number: int) -> tuple[Any, ...]:
    org, user = f"org_{number}", f"user_{number}"
    await say(base, *(moved(each, org, user) for each in tale))
    events = log(url, org)
    assert [kind for kind, *_ in events].count("identity.user.created") <= 1
    # What clients have put together from the events is what is true.
    if events:
        assert events[-1][1:] == (await state(url, org))[1:]
    return await state(url, org)


async def test_every_order_of_a_short_tale_ends_the_same(base, demo, database_url):
    short = [TALE[0], TALE[3], TALE[4], TALE[5], TALE[6]]
    for number, order in enumerate(permutations(short)):
        assert await converges(base, database_url, list(order), number) == ("One", "Anna Archer", "manager", False), (
            order
        )
    assert execute(database_url, "select count(*) from unclaimed_deliveries") == [(0,)]


@pytest.mark.parametrize("seed", range(4))
async def test_shuffled_and_doubled_tales_end_the_same(base, demo, database_url, seed):
    shuffle = random.Random(seed)
    for number in range(25):
        tale = [*TALE, *shuffle.sample(TALE, 4)]
        shuffle.shuffle(tale)
        found = await converges(base, database_url, tale, number)
        assert found == ("Two", "Anna Baker", "member", True), [each["type"] for each in tale]


async def test_all_at_once_ends_the_same(base, demo, database_url):
    for number in range(10):
        org, user = f"org_{number}", f"user_{number}"
        tale = [moved(each, org, user) for each in TALE]
        await asyncio.gather(*(say(base, each) for each in tale))
        assert await state(database_url, org) == ("Two", "Anna Baker", "member", True)
    assert execute(database_url, "select count(*) from unclaimed_deliveries") == [(0,)]


async def test_within_a_millisecond_creating_comes_before_changing_before_ending(base, demo, database_url):
    await say(base, organisation("created", 0))
    tied = [person("created", 1, "A"), person("updated", 1, "B"), member("created", 1, first="C"),
            member("deleted", 1, first="D", role="org:admin")]  # fmt: skip
    for number, order in enumerate(permutations(tied)):
        await say(base, *(moved(each, "org_1", f"user_{number}") for each in order))
    assert set(staff(database_url).values()) == {("B Archer", "manager", False)}


async def test_what_is_told_of_an_organisation_too_early_waits_for_it(app, base, demo, database_url):
    early = [member("created", 1), organisation("deleted", 3), member("updated", 2, role="org:admin")]
    assert await say(base, *early) == ["unclaimed"] * 3
    assert revoked(database_url) == []
    assert await say(base, organisation("created", 0)) == ["processed"]
    assert staff(database_url) == {"ann": ("Ann Archer", "manager", True)}
    assert revoked(database_url) == [("org_1", None)]
    assert not await works(app, base, token_of("org_1", "ann", at(2)))
    assert await works(app, base, token_of("org_1", "ann", at(4)))
    assert execute(database_url, "select count(*) from unclaimed_deliveries") == [(0,)]


async def test_it_waits_for_an_operator_as_well(app, db, base, demo, database_url):
    await say(base, member("created", 1))
    await add_tenant(db, "org_1", company="78", number="+12125550199")
    assert await provision.replay(app[keys.INGEST], "org_1") == 1
    assert list(staff(database_url)) == ["ann"]
    assert await provision.replay(app[keys.INGEST], "org_1") == 0


async def test_when_too_much_waits_clerk_is_asked_to_tell_again(base, demo, database_url, monkeypatch):
    monkeypatch.setattr(provision, "UNCLAIMED_BOUND", 2)
    answers = [await tell(base, member("created", n, user=f"u{n}"), message=f"msg_{n}") for n in range(3)]
    assert [status for status, _ in answers] == [202, 202, 503]
    await say(base, organisation("created", 0))
    assert (await tell(base, member("created", 2, user="u2"), message="msg_2"))[0] == 200
    assert list(staff(database_url)) == ["u0", "u1", "u2"]


@pytest.mark.parametrize("call", ["hear", "tenants_of", "merge", "heard"])
async def test_what_failed_half_way_is_finished_when_it_is_told_again(base, demo, database_url, monkeypatch, call):
    await say(base, organisation("created", 0), organisation("created", 0, org="org_2"))
    await say(base, member("created", 1), member("created", 1, org="org_2"))
    real, calls = getattr(users, call), []

    async def fails_once_in_the_middle(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2 or (len(calls) == 1 and call != "merge"):
            raise StoreUnavailable
        return await real(*args)

    told = {"msg_u": person("updated", 2, "Anna"), "msg_m": member("created", 3, first="Anna", user="ben")}
    with monkeypatch.context() as patch:
        patch.setattr(users, call, fails_once_in_the_middle)
        first = [(await tell(base, body, message=message))[0] for message, body in told.items()]
    assert 503 in first
    for message, body in told.items():
        assert (await tell(base, body, message=message))[0] == 200
    assert staff(database_url) == {"ann": ("Anna Archer", "member", True), "ben": ("Anna Archer", "member", True)}
    assert staff(database_url, "org_2") == {"ann": ("Anna Archer", "member", True)}


async def test_a_name_told_between_two_looks_is_not_lost(base, demo, database_url, monkeypatch):
    """The membership has looked for the person; before it commits, the person's event finds no tenant to tell."""
    await say(base, organisation("created", 0))
    real = users.merge

    async def meanwhile(tx: Any, tenant_id: str, source: Any, membership: Any, told: Any) -> Any:
        if membership is not None and source.variant == "":
            monkeypatch.setattr(users, "merge", real)
            assert await say(base, person("updated", 9, "Anna", "Baker")) == ["processed"]
        return await real(tx, tenant_id, source, membership, told)

    monkeypatch.setattr(users, "merge", meanwhile)
    await say(base, member("created", 1))
    assert staff(database_url) == {"ann": ("Anna Baker", "member", True)}
    assert [name for _, name, *_ in log(database_url)] == ["Ann Archer", "Anna Baker"]


async def test_an_organisation_told_of_while_its_member_is_put_aside_finds_it(base, demo, database_url, monkeypatch):
    real, looked = tenants.exists, []

    async def just_before(system: Any, tenant_id: str) -> bool:
        found = await real(system, tenant_id)
        if not looked:
            looked.append(tenant_id)
            assert await say(base, organisation("created", 0)) == ["processed"]
        return found

    monkeypatch.setattr(tenants, "exists", just_before)
    assert await say(base, member("created", 1)) == ["unclaimed"]
    assert list(staff(database_url)) == ["ann"]


async def test_each_half_of_what_is_told_is_as_new_as_it_is(db, base, demo, database_url):
    def told(number: int) -> users.Source:
        return users.Source(provider="clerk", kind="test", external_id=str(number))

    def works_as(role: Role, stamp: str) -> users.Membership:
        return users.Membership(tenant_id="demo", user_id="ann", role=role, stamp=stamp)

    def called(name: str | None, stamp: str) -> users.Person:
        return users.Person(user_id="ann", name=name, stamp=stamp)

    tx = db.one("demo")
    halves = [
        (None, called("Nobody", "9")),  # of a person alone no member is made
        (works_as(Role.MANAGER, "5"), called("Ann", "5")),
        (works_as(Role.MEMBER, "4"), called("Anna", "6")),
        (works_as(Role.SERVICE, "7"), called("Old", "2")),
        (works_as(Role.MEMBER, "8"), None),
    ]
    found = []
    for number, half in enumerate(halves):
        await users.merge(tx, "demo", told(number), *half)
        found.append(staff(database_url, "demo").get("ann", ())[:2])
    assert found == [(), ("Ann", "manager"), ("Anna", "manager"), ("Anna", "service"), ("Anna", "member")]
    # The same keys again, with other facts: nothing.
    for number, _ in enumerate(halves):
        merged = await users.merge(tx, "demo", told(number), works_as(Role.SERVICE, "9"), called("Eve", "9"))
        assert not merged.fresh
        assert merged.appended.events == ()
    assert staff(database_url, "demo")["ann"][:2] == ("Anna", "member")


async def test_a_membership_without_a_name_takes_none_away(base, demo, database_url):
    await say(base, organisation("created", 0), member("created", 1))
    execute(database_url, "delete from clerk_users")  # as after a week
    assert await say(base, member("updated", 2, role="org:admin", first=None, last=None)) == ["processed"]
    assert staff(database_url) == {"ann": ("Ann Archer", "manager", True)}


async def test_what_was_heard_of_a_person_is_forgotten_after_a_week(db, base, demo, database_url):
    await say(base, person("created", 0), person("created", 0, user="ben"))
    execute(database_url, "update clerk_users set heard_at = now() - interval '8 days' where user_id = 'ann'")
    before = datetime.now(UTC) - retention.HEARD_KEPT
    assert await queries().retention.retire_clerk_users(db.system(), before=before, limit=10) == 1
    assert execute(database_url, "select user_id from clerk_users") == [("ben",)]


# The signature


async def test_the_published_vector_passes_the_front_door(base, demo, monkeypatch):
    """Svix's own example, at its own time; its body is no event, so what follows is 400 and not 401."""
    from ottoai.web import webhooks

    class Then(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.fromtimestamp(SENT, tz)

    monkeypatch.setattr(webhooks, "datetime", Then)
    signed = {"svix-id": MESSAGE, "svix-timestamp": str(SENT), "svix-signature": SIGNATURE}
    status, problem = await tell(base, BODY, **signed)
    assert (status, problem["detail"].partition(":")[0]) == (400, "body")
    status, _ = await tell(base, BODY.replace(b"4", b"5"), **signed)
    assert status == 401


async def test_nobody_else_makes_tenants(base, demo, database_url):
    status, _ = await tell(base, organisation("created", 0), secret=SVIX)
    assert status == 401
    status, _ = await tell(base, organisation("created", 0), **{"svix-signature": ""})
    assert status == 401
    assert execute(database_url, "select count(*) from tenants") == [(1,)]

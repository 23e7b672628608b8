"""Clerk says that somebody's access has ended: it has, at once, and only that. What else it says: test_provisioning."""

import base64
import logging
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import jwt
import msgspec
import pytest

from ottoai.app import build_app
from ottoai.client import Closed, connect
from ottoai.domain import revocations
from ottoai.errors import NotFound
from ottoai.web import auth, keys
from ottoai.webhooks import clerk
from tests.conftest import SECRET, add_tenant, execute, make_config
from tests.helpers import get, looks_for_revoked
from tests.integration.test_realtime import CHANNEL
from tests.streams import open_stream

WEBHOOK_SECRET = "whsec_" + base64.b64encode(b"the secret of Clerk's endpoint").decode()
OLD_SECRET = "whsec_" + base64.b64encode(b"the one that was there before").decode()


@pytest.fixture
def config(database_url, redis_url):
    return make_config(database_url, redis_url, CLERK_WEBHOOK_SECRET=f"{WEBHOOK_SECRET},{OLD_SECRET}")


@pytest.fixture
async def other(db) -> str:
    return await add_tenant(db, "other", company="77", number="+12125550188")


def event(kind: str, data: Any, happened: datetime | None = None) -> dict[str, Any]:
    stamp = int((happened or datetime.now(UTC)).timestamp() * 1000)
    return {"data": data, "instance_id": "ins_123", "object": "event", "timestamp": stamp, "type": kind}


def membership(tenant: str, user: str) -> dict[str, Any]:
    return {
        "organization": {"id": tenant},
        "public_user_data": {"user_id": user, "identifier": "ann@example.org"},
    }


async def tell(
    base: str, body: dict[str, Any] | bytes, *, secret: str = WEBHOOK_SECRET, message: str = "msg_1", **headers: str
) -> tuple[int, dict[str, Any]]:
    """Send an event as Clerk would; (status, answer)."""
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    now = str(int(time.time()))
    sent = {clerk.ID: message, clerk.TIMESTAMP: now, clerk.SIGNATURE: clerk.sign(message, now, data, secret)}
    url = f"{base}/clerk/webhook"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=data, headers=sent | headers) as response,
    ):
        return response.status, msgspec.json.decode(await response.read())


def token_of(org: str, user: str, issued: datetime) -> str:
    """A token that was issued at that time."""
    claims = {"sub": user, "org_id": org, "iat": int(issued.timestamp()), "exp": int(time.time()) + 600}
    return jwt.encode(claims, SECRET, "HS256")


async def works(app, base: str, token: str) -> bool:
    """Whether a token counts, by all that is known now."""
    await app[keys.REVOKED].refresh(app[keys.DB].system())
    status, _, _ = await get(base, "/api/calls", token)
    assert status in {200, 401}
    return status == 200


def revoked(url: str) -> list[tuple[object, ...]]:
    return execute(url, "select tenant_id, user_id from revocations order by 1, 2")


async def test_a_deleted_user_is_out_of_every_tenant_within_a_second(app, base, make_token, other, monkeypatch):
    assert 2 * auth.REFRESH <= 1
    looks = looks_for_revoked(app, monkeypatch)
    async with (
        connect(base, make_token(user="ann")) as here,
        connect(base, make_token(other, user="ann")) as there,
        connect(base, make_token(user="ben")) as ben,
        open_stream(base, make_token(user="ann"), CHANNEL) as stream,
    ):
        for _ in range(2):
            await stream.message()
        answer = await tell(base, event("user.deleted", {"id": "ann", "object": "user", "deleted": True}))
        told = {"status": "processed", "provider": "clerk", "kind": "user.deleted", "external_id": "msg_1"}
        assert answer == (200, told)
        looked = len(looks)
        for socket in (here, there):
            with pytest.raises(Closed) as closed:
                await socket.receive()
            assert closed.value.code == 4401
        assert await stream.message() == {"type": "auth_expired"}
        assert True in looks[: looked + 2], "one was perhaps under way; the next tells of it"
        await ben.send(type="ping")
        await ben.answer("pong")


@pytest.mark.parametrize(
    ("flags", "out"),
    [({"banned": True, "locked": False}, True), ({"banned": False, "locked": True}, False),
     ({"banned": False, "locked": False}, False), ({}, False)],
)  # fmt: skip
async def test_a_user_that_may_not_sign_in_is_out(app, base, make_token, flags, out):
    token = make_token(user="ann")
    assert (await tell(base, event("user.updated", {"id": "ann", **flags})))[1]["status"] == "processed"
    assert await works(app, base, token) == (not out)


async def test_a_removed_member_is_out_of_that_tenant_alone(app, base, make_token, other):
    token = make_token(user="ann")
    async with (
        connect(base, token) as here,
        connect(base, make_token(other, user="ann")) as there,
        connect(base, make_token(user="ben")) as ben,
    ):
        answer = await tell(base, event("organizationMembership.deleted", membership("demo", "ann")))
        assert answer[1]["status"] == "processed"
        with pytest.raises(Closed) as closed:
            await here.receive()
        assert closed.value.code == 4401
        for socket in (there, ben):
            await socket.send(type="ping")
            await socket.answer("pong")
    assert not await works(app, base, token)
    assert await works(app, base, make_token(other, user="ann"))


async def test_everybody_is_out_of_a_deleted_organisation(app, base, make_token, other):
    tokens = [make_token(user="ann"), make_token(user="ben"), make_token(other, user="ann")]
    answer = await tell(base, event("organization.deleted", {"id": "demo", "object": "organization", "deleted": True}))
    assert answer[1]["status"] == "processed"
    assert [await works(app, base, token) for token in tokens] == [False, False, True]


async def test_what_happened_before_a_token_was_issued_does_not_revoke_it(app, base, database_url):
    now = datetime.now(UTC)
    removed, before, since = (now - timedelta(minutes=minutes) for minutes in (60, 61, 59))
    old, new = token_of("demo", "ann", before), token_of("demo", "ann", since)
    first = event("organizationMembership.deleted", membership("demo", "ann"), removed)
    for status in ("processed", "duplicate_ignored"):  # comes late, and again
        assert (await tell(base, first))[1]["status"] == status
        assert [await works(app, base, token) for token in (old, new)] == [False, True]
    assert execute(database_url, "select extract(epoch from valid_after)::float8 from revocations") == [
        (int(removed.timestamp() * 1000) / 1000,)
    ]
    assert [await works(app, base, token_of(org, user, now)) for org, user in (("demo", "ann"), ("demo", "ben"))] == [
        True,
        True,
    ]


async def test_an_event_that_was_overtaken_takes_nothing_back(app, base, database_url):
    now = datetime.now(UTC)
    token = token_of("demo", "ann", now - timedelta(minutes=30))
    for minutes in (20, 40):
        happened = now - timedelta(minutes=minutes)
        assert (await tell(base, event("user.deleted", {"id": "ann"}, happened)))[0] == 200
        assert not await works(app, base, token)
    [(first,)] = execute(database_url, "select valid_after from revocations")
    assert abs(first - (now - timedelta(minutes=20))) < timedelta(seconds=1)


async def test_revoking_goes_forward_only(db, demo):
    system, now = db.system(), datetime.now(UTC)
    later = now + timedelta(hours=1)
    assert await revocations.revoke(system, demo, "ann", now) == now
    assert await revocations.revoke(system, demo, "ann", later) == later
    assert await revocations.revoke(system, demo, "ann", now) == later
    assert await revocations.revoke(system, demo, "ann") == later
    assert now <= await revocations.revoke(system, demo, "ben") < later
    with pytest.raises(NotFound):
        await revocations.revoke(system, "nowhere", None, now)


async def test_what_is_told_of_an_organisation_that_is_no_tenant_is_kept(base, database_url):
    for kind, data in (
        ("organization.deleted", {"id": "org_unknown"}),
        ("organizationMembership.deleted", membership("org_unknown", "ann")),
    ):
        status, answer = await tell(base, event(kind, data))
        assert (status, answer["status"], answer["kind"]) == (202, "unclaimed", kind)
        assert "organisation" in answer["detail"]
    assert revoked(database_url) == []


@pytest.mark.parametrize("kind", ["session.ended", "session.removed", "session.revoked", "role.created", "new.kind"])
async def test_other_events_are_ignored(base, database_url, kind):
    answer = await tell(base, event(kind, {"id": "ann", "user_id": "ann", "banned": True}))
    assert answer == (200, {"status": "ignored", "provider": "clerk", "kind": kind, "external_id": "msg_1"})
    assert revoked(database_url) == []


async def test_every_configured_secret_is_accepted_and_no_other(base, database_url):
    body = event("user.deleted", {"id": "ann"})
    assert (await tell(base, body, secret=OLD_SECRET))[0] == 200
    assert len(revoked(database_url)) == 1


@pytest.mark.parametrize(
    "headers",
    [{"svix-signature": "v1,AAAA"}, {"svix-signature": ""}, {"svix-timestamp": "1614265330"}, {"svix-id": "msg_2"},
     {"svix-timestamp": "soon"}],
)  # fmt: skip
async def test_what_clerk_did_not_sign_is_refused(base, database_url, headers):
    status, problem = await tell(base, event("user.deleted", {"id": "ann"}), **headers)
    assert (status, problem["type"]) == (401, "/docs/problems/bad-signature")
    assert revoked(database_url) == []


async def test_another_secret_and_a_signature_of_long_ago_are_refused(base, database_url):
    body = msgspec.json.encode(event("user.deleted", {"id": "ann"}))
    stranger = "whsec_" + base64.b64encode(b"nobody has ever heard of this").decode()
    assert (await tell(base, body, secret=stranger))[0] == 401
    for seconds, status in ((-360, 401), (360, 401), (-240, 200)):
        sent = str(int(time.time()) + seconds)
        genuine = {clerk.TIMESTAMP: sent, clerk.SIGNATURE: clerk.sign("msg_1", sent, body, WEBHOOK_SECRET)}
        assert (await tell(base, body, **genuine))[0] == status
        assert len(revoked(database_url)) == (status == 200)


@pytest.mark.parametrize(
    ("body", "told"),
    [(b"{broken", "body:"), (b"[]", "body:"), (b"{}", "type"),
     (event("user.deleted", {}), "id"), (event("user.deleted", {"id": "a\x00b"}), "data.id"),
     (event("organizationMembership.deleted", {"organization": {"id": "demo"}}), "public_user_data")],
)  # fmt: skip
async def test_a_genuine_event_that_cannot_be_read_is_400(base, database_url, body, told):
    status, problem = await tell(base, body)
    assert (status, problem["type"]) == (400, "/docs/problems/invalid-input")
    assert told in problem["detail"]
    assert revoked(database_url) == []


async def test_without_a_secret_there_is_no_such_address(database_url, redis_url, demo, aiohttp_server):
    server = await aiohttp_server(build_app(make_config(database_url, redis_url)))
    base = str(server.make_url("")).rstrip("/")
    status, problem = await tell(base, event("user.deleted", {"id": "ann"}))
    async with aiohttp.ClientSession() as session, session.post(f"{base}/clerk/nothing") as response:
        nothing = msgspec.json.decode(await response.read())
    told = ("type", "title", "status", "detail")
    assert status == 404
    assert {name: problem[name] for name in told} == {name: nothing[name] for name in told}
    assert revoked(database_url) == []


async def test_an_event_is_sent_again_when_the_store_was_away(base, database_url, monkeypatch):
    from ottoai.errors import StoreUnavailable

    async def away(*_args: object) -> datetime:
        raise StoreUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(revocations, "revoke", away)
        assert (await tell(base, event("user.deleted", {"id": "ann"})))[0] == 503
    assert (await tell(base, event("user.deleted", {"id": "ann"})))[0] == 200


async def test_figures_and_log_lines_say_what_became_of_it(base, caplog):
    with caplog.at_level(logging.INFO, logger="ottoai.web.webhooks"):
        await tell(base, event("organizationMembership.deleted", membership("demo", "ann")))
        await tell(base, event("session.ended", {"id": "sess_1"}))
        await tell(base, b"{}")
        await tell(base, b"{}", **{"svix-signature": "v1,AAAA"})
    lines = [(r.message, r.kind, getattr(r, "external_id", None)) for r in caplog.records if hasattr(r, "provider")]
    assert lines == [
        ("Webhook processed successfully", "organizationMembership.deleted", "msg_1"),
        ("Webhook of no concern ignored", "session.ended", "msg_1"),
        ("Webhook rejected", "", None),
        ("Webhook rejected", "", None),
    ]
    assert "example.org" not in str([vars(record) for record in caplog.records])
    async with aiohttp.ClientSession() as session, session.get(f"{base}/metrics?scope=local") as response:
        text = await response.text()
    for outcome, number in {"processed": 1, "ignored": 1, "rejected": 2, "failed": 0}.items():
        assert re.search(
            rf'webhook_requests_total{{[^}}]*outcome="{outcome}"[^}}]*provider="clerk"[^}}]*}} {number}\n', text
        )
    assert re.search(r'webhook_processing_seconds_count{[^}]*provider="clerk"[^}]*} 4(.0)?\n', text)

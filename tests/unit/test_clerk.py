"""Clerk's events, from bytes alone."""

import base64
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottoai.config import Config
from ottoai.errors import BadSignature, ConfigError, InvalidInput
from ottoai.webhooks import clerk
from ottoai.webhooks.clerk_events import Ending
from ottoai.webhooks.delivery import Raw
from tests.unit.test_config import GOOD

# The example of Svix's documentation.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE = "msg_p5jXN8AQM9LWM0D4loKWxJek"
SENT = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
OTHER = "whsec_" + base64.b64encode(b"another secret of 24 byte").decode()

NOW = datetime.fromtimestamp(SENT, UTC)
HAPPENED = NOW - timedelta(hours=3, milliseconds=-250)
STAMP = int(HAPPENED.timestamp() * 1000)


def raw(body: object = BODY, *, sent: object = SENT, signature: str = SIGNATURE, now: datetime = NOW) -> Raw:
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    headers = {clerk.ID: MESSAGE, clerk.TIMESTAMP: str(sent), clerk.SIGNATURE: signature}
    return Raw(provider="clerk", kind="", hook="", headers=headers, body=data, received_at=now)


def event(kind: str, data: object, **fields: object) -> dict[str, object]:
    return {"data": data, "instance_id": "ins_123", "object": "event", "timestamp": STAMP, "type": kind, **fields}


MEMBERSHIP = {
    "id": "orgmem_1",
    "organization": {"id": "org_1", "name": "Acme"},
    "public_user_data": {"user_id": "user_1", "identifier": "jane@example.org"},
}


def test_the_signature_is_the_documented_one():
    assert clerk.sign(MESSAGE, str(SENT), BODY, SECRET) == SIGNATURE
    clerk.verify(raw(), [SECRET])


def test_any_signature_and_any_secret_may_match():
    clerk.verify(raw(signature=f"v1,{'A' * 43}= v1a,ed25519 {SIGNATURE}"), [OTHER, SECRET])
    clerk.verify(raw(signature=clerk.sign(MESSAGE, str(SENT), BODY, OTHER)), [SECRET, OTHER])


@pytest.mark.parametrize(
    "forged",
    [
        raw(b'{"test": 2432232315}'),
        raw(sent=SENT + 1),
        raw(signature=SIGNATURE.replace("g0", "h0")),
        raw(signature=SIGNATURE.removeprefix("v1,")),
        raw(signature=SIGNATURE.replace("v1", "v2")),
        raw(signature="v1,"),
        raw(signature="ünsigned"),
        raw(signature=" "),
        raw(sent="now"),
        raw(sent="٣"),
        raw(sent="9" * 5000),
        raw(sent=""),
        msgspec.structs.replace(raw(), headers={**raw().headers, clerk.ID: "msg_other"}),
        msgspec.structs.replace(raw(), headers={}),
    ],
)
def test_what_was_tampered_with_is_refused(forged):
    with pytest.raises(BadSignature):
        clerk.verify(forged, [SECRET])


def test_another_secret_or_none_matches_nothing():
    for secrets in ([OTHER], []):
        with pytest.raises(BadSignature):
            clerk.verify(raw(), secrets)


@pytest.mark.parametrize("seconds", [-300, 300])
def test_the_time_of_sending_may_be_five_minutes_off(seconds):
    clerk.verify(raw(now=NOW + timedelta(seconds=seconds)), [SECRET])
    with pytest.raises(BadSignature, match="svix-timestamp"):
        clerk.verify(raw(now=NOW + timedelta(seconds=seconds * 1.01)), [SECRET])


@given(st.binary(max_size=200), st.binary(min_size=24, max_size=64), st.binary(min_size=24, max_size=64))
def test_only_the_secret_that_signed_verifies(body, key, other):
    secret, another = ("whsec_" + base64.b64encode(each).decode() for each in (key, other))
    delivery = raw(body, signature=clerk.sign(MESSAGE, str(SENT), body, secret))
    clerk.verify(delivery, [secret])
    if key != other and clerk.sign(MESSAGE, str(SENT), body, another) != delivery.headers[clerk.SIGNATURE]:
        with pytest.raises(BadSignature):
            clerk.verify(delivery, [another])


@pytest.mark.parametrize(
    ("kind", "data", "ending"),
    [
        ("user.deleted", {"id": "user_1", "object": "user", "deleted": True}, (None, "user_1")),
        ("user.updated", {"id": "user_1", "banned": True, "locked": False}, (None, "user_1")),
        ("user.updated", {"id": "user_1", "banned": False, "locked": True}, None),  # it only may not sign in
        ("user.updated", {"id": "user_1", "banned": False, "locked": False}, None),
        ("user.updated", {"id": "user_1", "banned": None}, None),
        ("organizationMembership.deleted", MEMBERSHIP, ("org_1", "user_1")),
        ("organization.deleted", {"id": "org_1", "object": "organization", "deleted": True}, ("org_1", None)),
        ("organizationMembership.created", MEMBERSHIP, None),
        ("session.ended", {"id": "sess_1", "user_id": "user_1"}, None),
        ("session.removed", {"id": "sess_1", "user_id": "user_1"}, None),
        ("session.revoked", {"id": "sess_1", "user_id": "user_1"}, None),
        ("something.new", None, None),
    ],
)
def test_whose_access_ends(kind, data, ending):
    parsed = clerk.parse(raw(event(kind, data)))
    assert (parsed.kind, parsed.facts.ending) == (kind, Ending(*ending, HAPPENED) if ending else None)


@pytest.mark.parametrize(
    ("told", "at"),
    [
        (STAMP, HAPPENED),
        (SENT - 7200, NOW - timedelta(hours=2)),  # in seconds
        (SENT * 1000 + 299_000, NOW + timedelta(seconds=299)),
        (SENT * 1000 + 301_000, NOW),
        (None, NOW),
        (0, NOW),
        (-1, NOW),
        (2**63 - 1, NOW),
    ],
)
def test_the_time_that_counts_is_the_events_if_it_can_be_true(told, at):
    late = raw(event("user.deleted", {"id": "user_1"}, timestamp=told), now=NOW + timedelta(minutes=4))
    assert clerk.parse(late).facts.ending == Ending(None, "user_1", at)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{broken", "body:"),
        (b"[]", "body:"),
        (b"[" * 100_000, "body:"),
        (b'{"data": {}}', "type"),
        (event("x" * 101, {}), "type:"),
        (event("user.deleted", None), "data:"),
        (event("user.deleted", {}), "data:"),
        (event("user.deleted", {"id": 7}), "data.id:"),
        (event("user.deleted", {"id": ""}), "data.id:"),
        (event("user.deleted", {"id": "a\x00b"}), "data.id:"),
        (event("user.deleted", {"id": "user_1\n"}), "data.id:"),
        (event("user.deleted", {"id": "u" * 101}), "data.id:"),
        (event("user.updated", {"id": "user_1", "banned": "yes"}), "data.banned:"),
        (event("organization.deleted", {"id": None}), "data.id:"),
        (event("organizationMembership.deleted", {**MEMBERSHIP, "organization": {}}), "data.organization:"),
        (
            event("organizationMembership.deleted", {**MEMBERSHIP, "public_user_data": {"user_id": None}}),
            "data.public_user_data.user_id:",
        ),
        (event("user.deleted", {"id": "user_1"}, timestamp="yesterday"), "timestamp:"),
        (b'{"type": "user.deleted", "data": {"id": "u"}, "timestamp": 1.5}', "timestamp:"),
    ],
)
def test_what_cannot_be_used_is_refused_by_field(body, field):
    with pytest.raises(InvalidInput) as refused:
        clerk.parse(raw(body))
    assert field in refused.value.detail


@given(st.dictionaries(st.sampled_from(["type", "data", "timestamp"]), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(list(clerk.SHAPES)),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(
        st.sampled_from(["id", "banned", "organization", "public_user_data", "user_id"]), inner, max_size=3
    ),
    max_leaves=8,
)))  # fmt: skip
def test_no_event_does_more_than_be_refused(body):
    try:
        parsed = clerk.parse(raw(body))
    except InvalidInput as refused:
        assert refused.detail.split(":")[0].split(".")[0] in {"body", "type", "data", "timestamp"}
    else:
        ending = parsed.facts.ending
        assert ending is None or ending.tenant_id or ending.user_id
        assert clerk.parse(msgspec.structs.replace(raw(), body=clerk.kept(raw(body)))) == parsed


@pytest.mark.parametrize(
    "value",
    ["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_", "whsec_MfKQ", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS",
     "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw!", f"{SECRET},short", ","],
)  # fmt: skip
def test_a_bad_secret_is_refused_by_name_and_not_shown(value):
    with pytest.raises(ConfigError, match="CLERK_WEBHOOK_SECRET must be whsec_") as refused:
        Config.load({**GOOD, "CLERK_WEBHOOK_SECRET": value})
    assert "MfKQ" not in str(refused.value)


def test_secrets_are_read_and_masked():
    assert Config.load(GOOD).clerk_webhook_secrets == ()
    config = Config.load({**GOOD, "CLERK_WEBHOOK_SECRET": f"{SECRET}, {OTHER}"})
    assert config.clerk_webhook_secrets == (SECRET, OTHER)
    assert "whsec" not in repr(config)
    assert "whsec" not in str(config.masked())

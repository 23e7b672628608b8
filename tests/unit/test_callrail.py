"""CallRail's deliveries, from bytes alone."""

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ottoai import samples
from ottoai.domain.messages import Nothing
from ottoai.errors import InvalidInput
from ottoai.webhooks import callrail
from ottoai.webhooks.delivery import Raw

BODIES = Path(__file__).parents[1] / "bodies"
FIELDS = callrail.Fields.__struct_fields__ + callrail.TextFields.__struct_fields__
NOW = datetime(2026, 11, 23, 15, 0, tzinfo=UTC)


def raw(body: object, kind: str = "call-complete", **headers: str) -> Raw:
    data = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return Raw(provider="callrail", kind=kind, hook="", headers=headers, body=data, received_at=NOW)


def test_the_signature_is_what_openssl_says():
    body = b'{"id": 766970532}'
    command = ["openssl", "dgst", "-sha1", "-hmac", "072e77e426f92738a72fe23c4d1953b4", "-binary"]
    digest = subprocess.run(command, input=body, capture_output=True, check=True).stdout
    import base64

    assert callrail.sign(body, "072e77e426f92738a72fe23c4d1953b4") == base64.b64encode(digest).decode()


@given(st.binary(max_size=200), st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
def test_only_the_key_that_signed_verifies(body, key, other):
    delivery = raw(body, signature=callrail.sign(body, key))
    assert callrail.verify(delivery, [other, key])
    assert callrail.verify(delivery, [other]) == (callrail.sign(body, other) == callrail.sign(body, key))
    assert not callrail.verify(delivery, [])
    assert not callrail.verify(raw(body, signature="ünsigned"), [key])


@pytest.mark.parametrize("kind", ["pre-call", "routing-complete"])
def test_placeholders_of_a_ringing_call_state_nothing(kind):
    facts = callrail.parse(raw(samples.callrail(kind, 1, now=NOW), kind)).report.facts
    assert (facts.answered, facts.voicemail, facts.duration_seconds) == (None, None, None)
    assert facts.direction == "inbound"


def test_the_same_facts_are_the_same_variant_and_others_are_not():
    body = samples.callrail("call-complete", 1, now=NOW)
    first = callrail.parse(raw(body))
    assert callrail.parse(raw({**body, "prior_calls": 9, "formatted_duration": "?"})).variant == first.variant
    assert callrail.parse(raw({**body, "duration": "22"})).variant != first.variant


def test_impossible_times_are_not_believed():
    for told in ("2031-01-01T00:00:00Z", "1970-01-01T00:00:00Z"):
        assert (
            callrail.parse(raw(samples.callrail("call-complete", 1, now=NOW, start_time=told))).report.facts.started_at
            is None
        )


def test_who_it_is_from():
    identities = callrail.identify(raw(samples.callrail("pre-call", 1, now=NOW)))
    assert f"company:{samples.COMPANY}" in identities
    assert f"number:{samples.TRACKING_NUMBER}" in identities


def body_of(name: str) -> dict[str, object]:
    return msgspec.json.decode((BODIES / f"{name}.json").read_bytes())


def test_texts_that_came_in_and_went_out():
    received, sent = body_of("callrail_text_received"), body_of("callrail_text_sent")
    for body, direction in ((received, "inbound"), (sent, "outbound"), ({"text_message": sent}, "outbound")):
        delivery = raw(body, "text-message")
        assert f"number:{samples.TRACKING_NUMBER}" in callrail.identify(delivery)
        assert f"company:{samples.COMPANY_RESOURCE}" in callrail.identify(delivery)
        text = callrail.parse(delivery).report
        assert (text.direction, text.phone) == (direction, "+12125550143")
    assert text.sent_at == datetime(2026, 11, 23, 14, 59, 52, 4000, tzinfo=UTC)
    bare = {name: value for name, value in sent.items() if name != "agent"}
    assert callrail.parse(raw({**bare, "direction": "outbound"}, "text-message")).report.phone == "+12125550143"
    assert callrail.parse(raw({**sent, "agent": None}, "text-message")).report.direction == "outbound"


def test_a_text_of_a_short_code_is_nobodys():
    body = {**body_of("callrail_text_received"), "source_number": "72975"}
    assert isinstance(callrail.parse(raw(body, "text-message")).report, Nothing)


def test_an_outbound_call_says_so_in_one_of_two_fields():
    body = body_of("callrail_outbound_call")
    for told in (body, {**body, "direction": None}):
        facts = callrail.parse(raw(told)).report.facts
        assert (facts.direction, facts.customer_phone) == ("outbound", "+12125550143")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@example({"id": None, "resource_id": None, "company_id": "\x1f"}, "pre-call")
@given(
    st.dictionaries(st.sampled_from(FIELDS), json_values),
    st.sampled_from(callrail.KINDS),
)
def test_no_body_does_more_than_be_refused_by_field(fields, kind):
    delivery = raw(msgspec.json.encode(fields), kind)
    try:
        assert isinstance(callrail.identify(delivery), tuple)
        parsed = callrail.parse(delivery)
    except InvalidInput as refused:
        assert refused.detail.split(":")[0].split("[")[0] in FIELDS
    else:
        assert "\x00" not in msgspec.json.encode(parsed.report).decode()


@given(st.binary(max_size=300))
def test_garbage_is_refused(body):
    try:
        callrail.identify(raw(body))
    except InvalidInput as refused:
        assert refused.detail.startswith("body:")

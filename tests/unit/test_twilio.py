"""Twilio's deliveries, from bytes alone."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ottoai import samples
from ottoai.domain.messages import Nothing, Text, TextStatus
from ottoai.errors import InvalidInput
from ottoai.webhooks import twilio
from ottoai.webhooks.delivery import Raw

NOW = datetime(2026, 11, 23, 15, 0, tzinfo=UTC)
BODIES = Path(__file__).parents[1] / "bodies"
FORM = "application/x-www-form-urlencoded; charset=UTF-8"

# Twilio's published example.
TOKEN = "12345"
URL = "https://mycompany.com/myapp.php?foo=1&bar=2"
FIELDS = {
    "CallSid": "CA1234567890ABCDE",
    "Caller": "+14158675309",
    "Digits": "1234",
    "From": "+14158675309",
    "To": "+18005551212",
}
SIGNATURE = "RSOYDt4T1cUTdK1PDd93/VVr8B8="


def raw(body: object, kind: str = twilio.CALL, *, signature: str = "", url: str = URL, content: str = FORM) -> Raw:
    data = body if isinstance(body, bytes) else urlencode(body, doseq=True).encode()
    headers = {twilio.SIGNATURE: signature, "content-type": content}
    return Raw(provider="twilio", kind=kind, hook="", headers=headers, url=url, body=data, received_at=NOW)


def facts(status: str, **fields: str):
    return twilio.parse(raw(samples.twilio_call(status, 7, now=NOW, **fields))).report


def test_the_published_vector():
    assert twilio.verify(raw(FIELDS, signature=SIGNATURE), [TOKEN])
    assert twilio.verify(raw(FIELDS, signature=SIGNATURE), ["new", TOKEN])
    assert twilio.sign(URL, FIELDS, TOKEN) == SIGNATURE


@pytest.mark.parametrize(
    ("changed", "keys"),
    [
        ({"signature": ""}, [TOKEN]),
        ({"signature": SIGNATURE.lower()}, [TOKEN]),
        ({"signature": "ü" * 28}, [TOKEN]),
        ({"signature": SIGNATURE, "url": URL.replace("https", "http")}, [TOKEN]),
        ({"signature": SIGNATURE, "url": URL.replace("foo=1", "foo=2")}, [TOKEN]),
        ({"signature": SIGNATURE, "url": ""}, [TOKEN]),
        ({"signature": SIGNATURE, "url": "https://host:99999/"}, [TOKEN]),
        ({"signature": SIGNATURE, "url": "https://[broken/"}, [TOKEN]),
        ({"signature": SIGNATURE, "url": "https://host/\ud800"}, [TOKEN]),
        ({"signature": SIGNATURE, "content": "application/json"}, [TOKEN]),
        ({"signature": SIGNATURE}, ["other"]),
        ({"signature": SIGNATURE}, []),
    ],
)
def test_anything_else_is_not_genuine(changed, keys):
    assert not twilio.verify(raw(FIELDS, **changed), keys)


def test_every_field_is_signed():
    for name in FIELDS:
        assert not twilio.verify(raw({**FIELDS, name: "x"}, signature=SIGNATURE), [TOKEN])
        assert not twilio.verify(raw({k: v for k, v in FIELDS.items() if k != name}, signature=SIGNATURE), [TOKEN])
    assert not twilio.verify(raw({**FIELDS, "Empty": ""}, signature=SIGNATURE), [TOKEN])


@pytest.mark.parametrize("signed", ["https://a.example/x", "https://a.example:443/x"])
@pytest.mark.parametrize("called", ["https://a.example/x", "https://a.example:443/x"])
def test_the_port_may_be_told_or_not(signed, called):
    assert twilio.verify(raw(FIELDS, url=called, signature=twilio.sign(signed, FIELDS, TOKEN)), [TOKEN])


def test_a_json_body_is_signed_by_its_digest():
    body = msgspec.json.encode({"CallSid": "CA1", "note": "ü"})
    url = f"https://a.example/x?bodySHA256={hashlib.sha256(body).hexdigest()}"
    signature = twilio.sign(url, {}, TOKEN)
    delivery = raw(body, url=url, signature=signature, content="application/json; charset=utf-8")
    assert twilio.verify(delivery, [TOKEN])
    for forged in (
        msgspec.structs.replace(delivery, body=body + b" "),
        msgspec.structs.replace(delivery, url=url.replace("bodySHA256=", "bodySHA256=0")),
        msgspec.structs.replace(delivery, url="https://a.example/x"),
        # Called a form, its body is still what the digest is of.
        raw(b"", url=url, signature=signature),
        raw(FIELDS, url=url, signature=signature),
    ):
        assert not twilio.verify(forged, [TOKEN])


def test_without_a_digest_json_is_not_signed_by_the_address_alone():
    url = "https://a.example/x"
    assert not twilio.verify(
        raw(b"{}", url=url, signature=twilio.sign(url, {}, TOKEN), content="application/json"), [TOKEN]
    )


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9),
        st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=9), min_size=1, max_size=3),
        max_size=8,
    )
)
def test_a_form_is_signed_as_it_is_decoded(fields):
    """Blanks, empty and repeated fields, NULs and every script; computed here as the documentation says."""
    import base64
    import hmac

    text = URL + "".join(name + value for name in sorted(fields) for value in sorted(set(fields[name])))
    signature = base64.b64encode(hmac.digest(TOKEN.encode(), text.encode(), "sha1")).decode()
    assert twilio.verify(raw(fields, signature=signature), [TOKEN])


def test_whose_it_is():
    call = samples.twilio_call("ringing", 1)
    assert twilio.identify(raw(call)) == (f"account:{samples.TWILIO_ACCOUNT}", f"number:{samples.TWILIO_NUMBER}")
    out = {**call, "Direction": "outbound-api", "From": samples.TWILIO_NUMBER, "To": "+12125550199"}
    assert f"number:{samples.TWILIO_NUMBER}" in twilio.identify(raw(out))
    assert f"number:{samples.TWILIO_NUMBER}" in twilio.identify(raw(samples.twilio_text(1), twilio.TEXT))
    assert f"number:{samples.TWILIO_NUMBER}" in twilio.identify(raw(samples.twilio_text_status("sent", 1), twilio.TEXT))


@pytest.mark.parametrize(
    ("status", "rank", "answered"),
    [
        ("queued", 1, None),
        ("initiated", 1, None),
        ("ringing", 1, None),
        ("in-progress", 2, None),
        ("completed", 3, True),
        ("busy", 3, False),
        ("no-answer", 3, False),
        ("canceled", 3, False),
        ("failed", 3, False),
    ],
)
def test_what_a_status_states(status, rank, answered):
    report = facts(status)
    assert (report.rank, report.facts.answered, report.facts.direction) == (rank, answered, "inbound")
    assert report.facts.tracking_phone == samples.TWILIO_NUMBER
    assert (report.facts.duration_seconds is not None) == (rank == 3)


@pytest.mark.parametrize(
    ("dial", "answered"),
    [("completed", True), ("answered", True), ("no-answer", False), ("busy", False), ("canceled", False)],
)
def test_a_dial_says_whether_somebody_answered(dial, answered):
    for status in ("in-progress", "completed"):
        report = facts(status, DialCallStatus=dial)
        assert (report.rank, report.facts.answered) == (4, answered)


@pytest.mark.parametrize(
    ("by", "voicemail"),
    [("machine_start", True), ("machine_end_beep", True), ("human", False), ("fax", None), ("unknown", None)],
)
def test_a_machine_is_a_voicemail(by, voicemail):
    assert facts("in-progress", AnsweredBy=by).facts.voicemail is voicemail
    alone = {"CallSid": "CA1", "AccountSid": "AC1", "AnsweredBy": by}  # as the callback on machines has it
    assert twilio.parse(raw(alone)).report.facts.voicemail is voicemail


def test_an_outbound_call_is_about_whom_it_reaches():
    for fields in ({"Direction": "outbound-api", "From": samples.TWILIO_NUMBER}, {"From": "client:ann"}):
        told = facts("no-answer", **{"To": "+12125550199", "CallerName": "DEMO ROOFING", **fields}).facts
        assert (told.direction, told.customer_phone, told.customer_name) == ("outbound", "+12125550199", None)


@pytest.mark.parametrize("number", ["anonymous", "+266696687", "+86282452253", "+8656696", "sip:ann@example.com"])
def test_who_withholds_the_number_has_none(number):
    assert facts("ringing", From=number).facts.customer_phone is None


def test_a_leg_of_a_dial_is_no_call():
    leg = samples.twilio_call("completed", 9, Direction="outbound-dial", ParentCallSid="CA1", To="+14045550190")
    assert isinstance(twilio.parse(raw(leg)).report, Nothing)


def test_when_a_call_began():
    body = (BODIES / "twilio_call_completed.form").read_bytes()
    told = twilio.parse(raw(body)).report.facts
    assert told.started_at == datetime(2026, 11, 23, 14, 58, 18, tzinfo=UTC)
    assert (told.duration_seconds, told.customer_name) == (42, "SAMPLE ROBIN")
    for odd in ("yesterday", "Mon, 99 Nov 2026 14:59:00 +0000", "Mon, 23 Nov 2099 14:59:00 +0000", "1"):
        assert facts("completed", Timestamp=odd).facts.started_at is None


def test_what_makes_a_delivery_another():
    variants = [
        twilio.parse(raw(samples.twilio_call(status, 7, **fields))).variant
        for status, fields in (
            ("ringing", {}),
            ("in-progress", {}),
            ("in-progress", {"SequenceNumber": "7"}),
            ("in-progress", {"SequenceNumber": "", "DialCallStatus": "busy"}),
            ("in-progress", {"SequenceNumber": "", "AnsweredBy": "human"}),
        )
    ]
    assert variants == ["ringing:2", "in-progress:3", "in-progress:7", "in-progress::busy", "in-progress:::human"]


def test_texts():
    text = twilio.parse(raw((BODIES / "twilio_sms_received.form").read_bytes(), twilio.TEXT)).report
    assert text == Text(
        external_id="SM1f2e3d4c5b6a798877665544332211aa",
        direction="inbound",
        phone="+12125550143",
        body="Yes please! 🏠 50% & more?",
    )
    picture = twilio.parse(raw((BODIES / "twilio_mms_received.form").read_bytes(), twilio.TEXT)).report
    assert (picture.body, picture.direction) == ("", "inbound")
    gone = twilio.parse(raw((BODIES / "twilio_sms_undelivered.form").read_bytes(), twilio.TEXT))
    assert gone.report == TextStatus(
        external_id="SM00112233445566778899aabbccddeeff", status="undelivered", error_code="30003"
    )
    assert gone.variant == "undelivered"
    assert isinstance(twilio.parse(raw(samples.twilio_text(1, From="72975"), twilio.TEXT)).report, Nothing)


@pytest.mark.parametrize(
    ("body", "kind", "told"),
    [
        ({"CallSid": "CA1"}, twilio.CALL, "CallStatus"),
        ({"CallStatus": "ringing"}, twilio.CALL, "CallSid"),
        ({"CallSid": "CA1", "CallStatus": "exploded"}, twilio.CALL, "CallStatus"),
        ({"CallSid": "CA1", "CallStatus": "completed", "DialCallStatus": "?"}, twilio.CALL, "DialCallStatus"),
        ({"CallSid": "CA1", "CallStatus": "completed", "CallDuration": "long"}, twilio.CALL, "CallDuration"),
        ({"CallSid": "CA1", "CallStatus": "completed", "CallDuration": "-1"}, twilio.CALL, "CallDuration"),
        ({"CallSid": "CA\x001", "CallStatus": "ringing"}, twilio.CALL, "CallSid"),
        ({"CallSid": "C" * 101, "CallStatus": "ringing"}, twilio.CALL, "CallSid"),
        ({"CallSid": ["CA1", "CA2"], "CallStatus": "ringing"}, twilio.CALL, "CallSid"),
        ({"CallSid": "CA1", "CallStatus": ["ringing", "ringing"]}, twilio.CALL, "CallStatus"),
        ({"From": "+12125550199"}, twilio.TEXT, "MessageSid"),
        ({"MessageSid": "SM1", "MessageStatus": "eaten"}, twilio.TEXT, "MessageStatus"),
        (b"CallSid=%ff&CallStatus=ringing", twilio.CALL, "body"),
        (b"CallSid=\xff", twilio.CALL, "body"),
        (b"a=1&" * 201, twilio.CALL, "body"),
    ],
)
def test_what_cannot_be_used_is_refused_by_field(body, kind, told):
    with pytest.raises(InvalidInput) as refused:
        twilio.parse(raw(body, kind))
    assert told in refused.value.detail


@given(
    st.dictionaries(st.sampled_from(sorted(twilio.READ)), st.text(st.characters(exclude_categories=["Cs"]))),
    st.sampled_from(twilio.KINDS),
)
def test_no_form_does_more_than_be_refused(fields, kind):
    delivery = raw(fields, kind)
    try:
        assert isinstance(twilio.identify(delivery), tuple)
        parsed = twilio.parse(delivery)
    except InvalidInput:
        return
    assert b"\\u0000" not in msgspec.json.encode([parsed.external_id, parsed.variant, parsed.report])


@given(st.binary(max_size=300), st.sampled_from([FORM, "application/json", ""]), st.sampled_from(twilio.KINDS))
def test_garbage_is_refused(body, content, kind):
    delivery = raw(body, kind, content=content, signature="x")
    assert not twilio.verify(delivery, [TOKEN])
    try:
        twilio.identify(delivery)
        twilio.parse(delivery)
    except InvalidInput:
        pass

"""Twilio's callbacks, as pure functions: whose a delivery is, whether it is genuine, and what it says.

Sources: Twilio's documentation of its requests and of their signature (header `X-Twilio-Signature`, which Twilio's own
package checks). Bodies are forms, or JSON with a digest of it in the URL. A callback may be sent twice, and statuses
come in any order. `I-Twilio-Idempotency-Token` is not signed, so that deliveries are known by what they say.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import msgspec
from twilio.request_validator import RequestValidator

from ottoai.domain.calls import Facts, Report
from ottoai.domain.hours import e164
from ottoai.domain.messages import Fate, Nothing, Text, TextStatus
from ottoai.errors import InvalidInput
from ottoai.webhooks.delivery import Delivery, Raw
from ottoai.webhooks.fields import MAX_TEXT, believed, checked_id, plain, read
from ottoai.webhooks.twilio_errors import sort_of

NAME: Final = "twilio"
FOLDER: Final = "twilio"
OWNER: Final = "AccountSid"
SIGNATURE: Final = "x-twilio-signature"
SIGNED: Final = "base64(HMAC-SHA1(auth token, URL and sorted form))"
CALL: Final = "call-status"
TEXT: Final = "sms"
KINDS: Final = (CALL, TEXT)

MAX_FIELDS: Final = 200  # Twilio sends some 40; the signature's cost grows with their square

CallStatus = Literal[
    "queued", "initiated", "ringing", "in-progress", "completed", "busy", "no-answer", "canceled", "failed"
]
DialStatus = Literal["completed", "answered", "busy", "no-answer", "canceled", "failed"]
MessageStatus = Literal[
    "receiving", "received", "accepted", "scheduled", "queued", "sending", "sent", "delivered", "undelivered",
    "failed", "canceled", "read",
]  # fmt: skip

# A dial's outcome outranks the call's: a call is `completed` too when nobody but a recording answered it.
RANKS: Final[dict[CallStatus, int]] = {
    "queued": 1,
    "initiated": 1,
    "ringing": 1,
    "in-progress": 2,
    "completed": 3,
    "busy": 3,
    "no-answer": 3,
    "canceled": 3,
    "failed": 3,
}
OVER: Final = 3
DIAL_RANK: Final = 4

RECEIVED: Final = frozenset({"receiving", "received"})
FATES: Final[dict[MessageStatus, Fate]] = {
    "accepted": "sent",
    "scheduled": "sent",
    "queued": "sent",
    "sending": "sent",
    "sent": "sent",
    "delivered": "delivered",
    "read": "delivered",
    "undelivered": "undelivered",
    "failed": "failed",
    "canceled": "failed",
}

# What Twilio says for a caller who withheld the number: words on a telephone's keys, not numbers.
WITHHELD: Final = frozenset({"+266696687", "+7378742833", "+2562533", "+8656696", "+86282452253"})


class Told(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """The fields of every callback that are read, with Twilio's names."""

    account_sid: str | None = None
    from_: str | None = msgspec.field(default=None, name="From")
    to: str | None = None


class CallFields(Told, frozen=True, kw_only=True, rename="pascal"):
    """The fields of a callback about a call."""

    call_sid: str
    call_status: CallStatus | None = None
    sequence_number: int | None = None
    direction: str | None = None
    call_duration: int | None = None
    timestamp: str | None = None
    caller_name: str | None = None
    dial_call_status: DialStatus | None = None
    answered_by: str | None = None
    parent_call_sid: str | None = None

    @property
    def outbound(self) -> bool:
        """Whether the tenant calls; a call of one of its own softphones comes in to Twilio, and goes out from there."""
        return (self.direction or "").startswith("outbound") or (self.from_ or "").startswith("client:")


class TextFields(Told, frozen=True, kw_only=True, rename="pascal"):
    """The fields of a callback about a text message."""

    message_sid: str
    message_status: MessageStatus | None = None
    sms_status: MessageStatus | None = None
    body: str | None = None
    error_code: str | None = None

    @property
    def status(self) -> MessageStatus:
        """Only what became of a message that was sent has a MessageStatus."""
        return self.message_status or self.sms_status or "received"


READ: Final = frozenset(CallFields.__struct_encode_fields__ + TextFields.__struct_encode_fields__)


class Form(dict[str, list[str]]):
    """A decoded form. `getlist` is what Twilio's validator asks for the values of a field."""

    def getlist(self, name: str) -> list[str]:
        """All values of a field."""
        return self[name]


def identify(raw: Raw) -> tuple[str, ...]:
    """What in the body tells whose this is, as `kind:value`. Raises InvalidInput when it cannot be read."""
    told = _told(raw)
    fields = read({name: told[name] for name in ("AccountSid", "From", "To") if name in told}, Told)
    account = (f"account:{checked_id('AccountSid', fields.account_sid)}",) if fields.account_sid else ()
    number = e164(fields.from_ if _ours_sent(raw.kind, told) else fields.to)
    return account + ((f"number:{number}",) if number else ())


def verify(raw: Raw, keys: Sequence[str]) -> bool:
    """Whether one of these auth tokens signed the URL and the body; the URL may be told with its port or without."""
    given = raw.headers.get(SIGNATURE, "")
    try:
        signed_fields = _signed_fields(raw)
        return any(RequestValidator(key).validate(raw.url, signed_fields, given) for key in keys)
    except (InvalidInput, ValueError):  # no such form, or no such URL
        return False


def sign(url: str, fields: Mapping[str, str], key: str) -> str:
    """The signature Twilio would send with a form; without fields, that of a JSON body whose digest is in the URL."""
    signature: str = RequestValidator(key).compute_signature(url, dict(fields))
    return signature


def parse(raw: Raw) -> Delivery:
    """What the delivery says. Raises InvalidInput naming the field that is missing or of the wrong type."""
    return _call(raw) if raw.kind == CALL else _text(raw)


def _call(raw: Raw) -> Delivery:
    fields = read(_told(raw), CallFields)
    sid = checked_id("CallSid", fields.call_sid)
    # The callback on an answering machine comes with no status, in the middle of the call.
    status = fields.call_status or ("in-progress" if fields.answered_by else None)
    if status is None:
        raise InvalidInput("CallStatus: is missing")
    told = (status, fields.sequence_number, fields.dial_call_status, fields.answered_by)
    variant = checked_id("AnsweredBy", ":".join("" if each is None else str(each) for each in told).rstrip(":"))
    if fields.parent_call_sid:  # a leg that rings the tenant's own people: the call itself says how that ended
        return Delivery(external_id=sid, variant=variant, report=Nothing(external_id=sid))
    rank = DIAL_RANK if fields.dial_call_status else RANKS[status]
    report = Report(external_id=sid, rank=rank, facts=_facts(fields, status, raw.received_at))
    return Delivery(external_id=sid, variant=variant, report=report)


def _facts(fields: CallFields, status: CallStatus, received_at: datetime) -> Facts:
    caller, called = _phone(fields.from_), _phone(fields.to)
    customer, own = (called, caller) if fields.outbound else (caller, called)
    seconds = fields.call_duration if RANKS[status] == OVER else None
    if seconds is not None and not 0 <= seconds < 2**31:
        raise InvalidInput("CallDuration: out of range")
    return Facts(
        direction="outbound" if fields.outbound else "inbound" if fields.direction else None,
        answered=_answered(fields, status),
        voicemail=_voicemail(fields.answered_by),
        duration_seconds=seconds,
        started_at=_started_at(fields.timestamp, seconds, received_at),
        customer_phone=customer,
        customer_name=None if fields.outbound else plain(fields.caller_name),
        tracking_phone=own,
    )


def _answered(fields: CallFields, status: CallStatus) -> bool | None:
    """Whether somebody answered; None while that is open."""
    if fields.dial_call_status:
        return fields.dial_call_status in {"completed", "answered"}
    return status == "completed" if RANKS[status] == OVER else None


def _voicemail(answered_by: str | None) -> bool | None:
    if answered_by == "human":
        return False
    return True if answered_by and answered_by.startswith("machine_") else None


def _started_at(timestamp: str | None, seconds: int | None, received_at: datetime) -> datetime | None:
    """A callback tells when it happened itself: the last one, with the call's length, when the call began."""
    if timestamp is None or seconds is None:
        return None
    try:
        return believed(parsedate_to_datetime(timestamp) - timedelta(seconds=seconds), received_at)
    except (ValueError, OverflowError):
        return None


def _text(raw: Raw) -> Delivery:
    fields = read(_told(raw), TextFields)
    sid = checked_id("MessageSid", fields.message_sid)
    report: Text | TextStatus | Nothing = Nothing(external_id=sid)
    if fields.status not in RECEIVED:
        code = plain(fields.error_code)
        sort = sort_of(code) if code else None
        report = TextStatus(
            external_id=sid,
            status=FATES[fields.status],
            error_code=code,
            message_id=_our_id(raw.url),
            untextable=sort == "untextable",
            opts_out=sort == "opted_out",
        )
    elif phone := _phone(fields.from_):  # a short code is nobody to call back
        report = Text(external_id=sid, direction="inbound", phone=phone, body=plain(fields.body, MAX_TEXT) or "")
    return Delivery(external_id=sid, variant=fields.status, report=report)


def _our_id(url: str) -> str | None:
    """Our id of a text, which the address that Twilio was given for it carries."""
    told = parse_qs(urlsplit(url).query).get("message", [""])[0]
    try:
        return str(UUID(told))
    except ValueError:
        return None


def _phone(told: str | None) -> str | None:
    return None if told in WITHHELD else e164(told)


def _ours_sent(kind: str, told: Mapping[str, Any]) -> bool:
    """Whether `From` is the tenant's number, and not `To`."""
    if kind == CALL:
        return str(told.get("Direction", "")).startswith("outbound")
    return str(told.get("MessageStatus") or told.get("SmsStatus") or "received") not in RECEIVED


def _signed_fields(raw: Raw) -> Form:
    """What the signature covers beside the URL. Raises InvalidInput, ValueError."""
    digest = parse_qs(urlsplit(raw.url).query).get("bodySHA256")
    if digest is None:
        if _is_json(raw):
            raise InvalidInput("bodySHA256: is missing in the address")
        return _form(raw)
    if not hmac.compare_digest(hashlib.sha256(raw.body).hexdigest().encode(), digest[0].lower().encode()):
        raise InvalidInput("bodySHA256: is not the body's")
    return Form()


def _told(raw: Raw) -> dict[str, Any]:
    """The fields, without those that are empty: they state nothing. Raises InvalidInput."""
    if _is_json(raw):
        return {name: value for name, value in raw.json_object().items() if value not in ("", None)}
    told = {}
    for name, values in _form(raw).items():
        if name in READ and len(values) > 1:
            raise InvalidInput(f"{name}: stands there more than once")
        if values[0]:
            told[name] = values[0]
    return told


def _form(raw: Raw) -> Form:
    try:
        decoded = parse_qs(raw.body.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except UnicodeDecodeError as error:
        raise InvalidInput("body: not UTF-8") from error
    except ValueError as error:
        raise InvalidInput(f"body: more than {MAX_FIELDS} fields") from error
    return Form(decoded)


def _is_json(raw: Raw) -> bool:
    return raw.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"

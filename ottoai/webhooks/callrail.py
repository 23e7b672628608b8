"""CallRail's webhooks, as pure functions: whose a delivery is, whether it is genuine, and what it says.

Sources: CallRail's help centre on webhooks and signatures (header `Signature` is the base64 HMAC-SHA1 of the raw body
under the company's signing key) and bodies as they are sent. There is no type field: each report has its own URL.
CallRail never resends, and its timestamps repeat the call's start, so no replay window is possible; what protects
against replays is that every delivery is remembered.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from ottoai.domain.calls import LATEST, Facts, Report
from ottoai.domain.hours import e164
from ottoai.domain.messages import Nothing, Text
from ottoai.errors import InvalidInput
from ottoai.webhooks.delivery import Delivery, Raw
from ottoai.webhooks.fields import MAX_ID, MAX_TEXT, believed, checked_id, plain, read

Direction = Literal["inbound", "outbound"]

NAME: Final = "callrail"
FOLDER: Final = "call-rail"
SIGNATURE: Final = "signature"
SIGNED: Final = "base64(HMAC-SHA1(signing key of the company, body))"

RANKS: Final = {"pre-call": 1, "routing-complete": 2, "call-complete": 3, "call-modified": 4}
# Not a report of CallRail's but its answer when we ask for the calls of a while: see callrail_list.
LISTED: Final = "reconcile"
# Reports sent while the call still rings carry placeholders for its outcome: they state nothing.
UNFINISHED: Final = frozenset({1, 2})

TEXT: Final = "text-message"
KINDS: Final = (*RANKS, TEXT)
OWNER: Final = "company_id"

WRAPPERS: Final = ("call", "text_message")  # what the nested shape may wrap its fields in
API_ID: Final = "CAL"  # how an id of the API begins; a webhook has it as resource_id, beside a number as id


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of every report that are read, with CallRail's names. Numbers may come as strings."""

    id: int | str | None = None
    resource_id: str | None = None
    company_id: int | str | None = None
    company_resource_id: str | None = None

    def external_id(self) -> str:
        """What is reported. Raises InvalidInput."""
        told = str(self.id or self.resource_id or "")
        if not told:
            raise InvalidInput("id: is missing")
        return checked_id("id", told)


class Fields(Told, frozen=True, kw_only=True):
    """The fields of a report about a call."""

    tracking_phone_number: str | None = None
    customer_phone_number: str | None = None
    customer_name: str | None = None
    direction: Direction | None = None
    call_type: str | None = None
    answered: bool | None = None
    voicemail: bool | None = None
    duration: int | None = None
    start_time: datetime | None = None
    source_name: str | None = None


class TextFields(Told, frozen=True, kw_only=True):
    """The fields of a report about a text message. CallRail names an `agent` in those that the company sent."""

    source_number: str | None = None
    destination_number: str | None = None
    customer_name: str | None = None
    direction: Direction | None = None
    agent: str | None = None
    content: str | None = None
    timestamp: datetime | None = None


def identify(raw: Raw) -> tuple[str, ...]:
    """What in the body tells whose this is, as `kind:value`. Raises InvalidInput when it cannot be read."""
    body = _flat(raw.json_object())
    own_number = _own_number(body) if raw.kind == TEXT else "tracking_phone_number"
    fields = _identity(body, "company_id", "company_resource_id", own_number)
    companies = tuple(f"company:{fields[name]}" for name in ("company_id", "company_resource_id") if fields.get(name))
    number = e164(fields.get(own_number))
    return companies + ((f"number:{number}",) if number else ())


def verify(raw: Raw, keys: Sequence[str]) -> bool:
    """Whether one of these keys signed the body."""
    given = raw.headers.get(SIGNATURE, "").encode()
    return any(hmac.compare_digest(given, sign(raw.body, key).encode()) for key in keys)


def sign(body: bytes, key: str) -> str:
    """The signature CallRail would send."""
    return base64.b64encode(hmac.digest(key.encode(), body, hashlib.sha1)).decode()


def parse(raw: Raw) -> Delivery:
    """What the delivery says. Raises InvalidInput naming the field that is missing or of the wrong type."""
    report = _text(raw) if raw.kind == TEXT else _call(raw)
    said = report.facts if isinstance(report, Report) else report
    digest = hashlib.sha256(msgspec.json.encode(said)).hexdigest()[:32]
    return Delivery(external_id=report.external_id, variant=digest, report=report)


def _call(raw: Raw) -> Report:
    fields, rank = fields_of(raw), LATEST if raw.kind == LISTED else RANKS[raw.kind]
    facts, external_id = _facts(fields, raw, unfinished=rank in UNFINISHED), fields.external_id()
    return Report(external_id=external_id, rank=rank, facts=facts, resource_id=_resource(fields, external_id))


def fields_of(raw: Raw) -> Fields:
    """The fields of a report about a call. Raises InvalidInput naming the one that is of the wrong type."""
    return read(_told(raw), Fields)


def _text(raw: Raw) -> Text | Nothing:
    fields = read(_told(raw), TextFields)
    outbound = _own_number(_flat(raw.json_object())) == "source_number"
    phone = e164(fields.destination_number if outbound else fields.source_number)
    if phone is None:  # a short code: nobody to call back
        return Nothing(external_id=fields.external_id())
    return Text(
        external_id=fields.external_id(),
        direction="outbound" if outbound else "inbound",
        phone=phone,
        body=plain(fields.content, MAX_TEXT) or "",
        name=plain(fields.customer_name),
        sent_at=believed(fields.timestamp, raw.received_at),
    )


def _resource(fields: Fields, external_id: str) -> str | None:
    """The call's id in CallRail's API; None when it is not told. What cannot be one is treated as not told."""
    told = fields.resource_id or (external_id if external_id.startswith(API_ID) else "")
    return told if told and told.isprintable() and len(told) <= MAX_ID else None


def _own_number(body: Mapping[str, Any]) -> str:
    """Which field of a text message holds the company's number. Those received name neither direction nor agent."""
    direction = body.get("direction") or ("outbound" if "agent" in body else "inbound")
    return "source_number" if direction == "outbound" else "destination_number"


def _facts(fields: Fields, raw: Raw, *, unfinished: bool) -> Facts:
    if fields.duration is not None and not 0 <= fields.duration < 2**31:
        raise InvalidInput("duration: out of range")
    return Facts(
        direction=fields.direction or ("outbound" if fields.call_type == "outbound" else None),
        answered=None if unfinished else fields.answered,
        voicemail=None if unfinished else fields.voicemail,
        duration_seconds=None if unfinished else fields.duration,
        started_at=believed(fields.start_time, raw.received_at),
        customer_phone=e164(fields.customer_phone_number),
        customer_name=plain(fields.customer_name),
        tracking_phone=e164(fields.tracking_phone_number),
        source=plain(fields.source_name),
    )


def _told(raw: Raw) -> dict[str, Any]:
    """The fields, without those that are empty: they state nothing."""
    return {name: value for name, value in _flat(raw.json_object()).items() if value not in ("", None)}


def _flat(body: dict[str, Any]) -> dict[str, Any]:
    """The nested shape, {"call": {…}}, is the flat one with a wrapper."""
    for name in WRAPPERS:
        if isinstance(inner := body.get(name), dict):
            return {**body, **inner}
    return body


def _identity(body: Mapping[str, Any], *names: str) -> dict[str, str]:
    told = {name: str(value) for name, value in body.items() if name in names and isinstance(value, str | int)}
    for name, value in told.items():
        if len(value) > MAX_ID or not value.isprintable():
            raise InvalidInput(f"{name}: must be at most {MAX_ID} characters that can be printed")
    return told

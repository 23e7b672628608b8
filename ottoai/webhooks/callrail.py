"""CallRail's webhooks, as pure functions: whose a delivery is, whether it is genuine, and what it says.

Sources: CallRail's help centre on webhooks and signatures (header `Signature` is the base64 HMAC-SHA1 of the raw body
under the company's signing key) and bodies as they are sent. There is no type field: each report has its own URL.
CallRail never resends, and its timestamps repeat the call's start, so no replay window is possible; what protects
against replays is that every delivery is remembered.
"""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from ottoai.domain.calls import LATEST, Facts, Report
from ottoai.domain.hours import e164
from ottoai.errors import InvalidInput
from ottoai.webhooks.delivery import Delivery, Raw

NAME: Final = "callrail"
SIGNATURE: Final = "signature"
HEADERS: tuple[str, ...] = (SIGNATURE, "content-type", "user-agent")

RANKS: Final = {"pre-call": 1, "routing-complete": 2, "call-complete": 3, "call-modified": 4}
# Not a report of CallRail's but its answer when we ask for the calls of a while: see callrail_list.
LISTED: Final = "reconcile"
# Reports sent while the call still rings carry placeholders for its outcome: they state nothing.
UNFINISHED: Final = frozenset({1, 2})

# A call cannot have begun after its report; a clock may be this much off.
CLOCK_SKEW: Final = timedelta(minutes=5)

MAX_ID: Final = 100  # ids are short; a longer one is not an id
API_ID: Final = "CAL"  # how an id of the API begins; a webhook has it as resource_id, beside a number as id


class Fields(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a report that are read, with CallRail's names. Numbers may come as strings."""

    id: int | str | None = None
    resource_id: str | None = None
    company_id: int | str | None = None
    company_resource_id: str | None = None
    tracking_phone_number: str | None = None
    customer_phone_number: str | None = None
    customer_name: str | None = None
    direction: str | None = None
    answered: bool | None = None
    voicemail: bool | None = None
    duration: int | None = None
    start_time: datetime | None = None
    source_name: str | None = None


def identify(raw: Raw) -> tuple[str, ...]:
    """What tells whose this is, as `kind:value`. Raises InvalidInput when the body cannot be read."""
    fields = _identity(raw.json_object())
    hook = (f"hook:{raw.hook}",) if raw.hook else ()
    companies = tuple(f"company:{fields[name]}" for name in ("company_id", "company_resource_id") if fields.get(name))
    number = e164(fields.get("tracking_phone_number"))
    return hook + companies + ((f"number:{number}",) if number else ())


def signed(raw: Raw) -> bool:
    """Whether the delivery carries a signature at all."""
    return bool(raw.headers.get(SIGNATURE))


def verify(raw: Raw, keys: Sequence[str]) -> bool:
    """Whether one of these keys signed the body."""
    given = raw.headers.get(SIGNATURE, "").encode()
    return any(hmac.compare_digest(given, sign(raw.body, key).encode()) for key in keys)


def sign(body: bytes, key: str) -> str:
    """The signature CallRail would send."""
    return base64.b64encode(hmac.digest(key.encode(), body, hashlib.sha1)).decode()


def parse(raw: Raw) -> Delivery:
    """What the delivery says. Raises InvalidInput naming the field that is missing or of the wrong type."""
    rank = LATEST if raw.kind == LISTED else RANKS[raw.kind]
    fields = read(raw)
    external_id = str(fields.id or fields.resource_id or "")
    if not external_id:
        raise InvalidInput("id: is missing")
    if not external_id.isprintable():
        raise InvalidInput("id: holds a character that cannot be printed")
    if len(external_id) > MAX_ID:
        raise InvalidInput(f"id: longer than {MAX_ID} characters")
    facts = _facts(fields, raw, unfinished=rank in UNFINISHED)
    digest = hashlib.sha256(msgspec.json.encode(facts)).hexdigest()[:32]
    report = Report(external_id=external_id, rank=rank, facts=facts, resource_id=_resource(fields, external_id))
    return Delivery(external_id=external_id, variant=digest, report=report)


def _resource(fields: Fields, external_id: str) -> str | None:
    """The call's id in CallRail's API; None when it is not told. What cannot be one is treated as not told."""
    told = fields.resource_id or (external_id if external_id.startswith(API_ID) else "")
    return told if told and told.isprintable() and len(told) <= MAX_ID else None


def _facts(fields: Fields, raw: Raw, *, unfinished: bool) -> Facts:
    if fields.direction not in {None, "inbound", "outbound"}:
        raise InvalidInput(f"direction: {fields.direction!r} is neither inbound nor outbound")
    if fields.duration is not None and not 0 <= fields.duration < 2**31:
        raise InvalidInput("duration: out of range")
    started_at = fields.start_time
    if started_at is not None:
        started_at = _in_utc(started_at)
        # What cannot be true is treated as not told: the time of receipt then stands in.
        if started_at is not None and not datetime(2000, 1, 1, tzinfo=UTC) < started_at < raw.received_at + CLOCK_SKEW:
            started_at = None
    return Facts(
        direction=fields.direction,
        answered=None if unfinished else fields.answered,
        voicemail=None if unfinished else fields.voicemail,
        duration_seconds=None if unfinished else fields.duration,
        started_at=started_at,
        customer_phone=e164(fields.customer_phone_number),
        customer_name=_text(fields.customer_name),
        tracking_phone=e164(fields.tracking_phone_number),
        source=_text(fields.source_name),
    )


def read(raw: Raw) -> Fields:
    """The fields of a report. Raises InvalidInput naming the one that is of the wrong type."""
    told = {name: value for name, value in _flat(raw.json_object()).items() if value not in ("", None)}
    try:
        return msgspec.convert(told, Fields, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidInput(_where(str(error))) from error


def _where(message: str) -> str:
    what, _, where = message.partition(" - at `$.")
    return f"{where.rstrip('`') or 'body'}: {what}"


def _flat(body: dict[str, Any]) -> dict[str, Any]:
    """The nested shape, {"call": {…}}, is the flat one with a wrapper."""
    inner = body.get("call")
    return {**body, **inner} if isinstance(inner, dict) else body


def _identity(body: dict[str, Any]) -> dict[str, str]:
    names = ("company_id", "company_resource_id", "tracking_phone_number")
    told = {name: str(value) for name, value in _flat(body).items() if name in names and isinstance(value, str | int)}
    for name, value in told.items():
        if len(value) > MAX_ID or not value.isprintable():
            raise InvalidInput(f"{name}: must be at most {MAX_ID} characters that can be printed")
    return told


def _in_utc(moment: datetime) -> datetime | None:
    """The moment in UTC, which is also what is meant when no zone is told; None outside of what a date can be."""
    try:
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError:
        return None


def _text(value: str | None) -> str | None:
    """Text that PostgreSQL can hold, without the blanks around it."""
    return (value or "").replace("\x00", "").strip()[:500] or None

"""Clerk's webhooks, as pure functions: whether an event is genuine, and what it says (clerk_events.py).

Source: Svix's guide to its signatures, since it is Svix that sends them. An event that was not taken is sent again for
about a day, each time with a signature of that time, and events may come in any order: so what counts is when something
happened, never when it was told.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from ottoai.errors import BadSignature
from ottoai.webhooks.clerk_events import SHAPES, Facts, Moment, Told
from ottoai.webhooks.delivery import Raw
from ottoai.webhooks.fields import EARLIEST, read

NAME: Final = "clerk"
ID: Final = "svix-id"
TIMESTAMP: Final = "svix-timestamp"
SIGNATURE: Final = "svix-signature"
HEADERS: tuple[str, ...] = (ID, TIMESTAMP, SIGNATURE)

TOLERANCE: Final = timedelta(minutes=5)  # by which the time of sending may differ from the time of receipt
SECONDS: Final = 10**11  # Unix times below are in seconds (as in some of Clerk's examples), others in milliseconds


class Event(msgspec.Struct, frozen=True):
    """An event, understood."""

    kind: str
    facts: Facts


def verify(raw: Raw, secrets: Sequence[str]) -> None:
    """Raise BadSignature unless one of these secrets signed this, about when it was received."""
    if not all(raw.headers.get(name) for name in HEADERS):
        raise BadSignature(f"The delivery is not signed: it needs {', '.join(HEADERS)}.")
    sent_at = _sent_at(raw)
    given = [word.encode() for word in raw.headers[SIGNATURE].split()]  # several while a secret is being replaced
    expected = [sign(raw.headers[ID], raw.headers[TIMESTAMP], raw.body, secret).encode() for secret in secrets]
    if not any(hmac.compare_digest(word, right) for right in expected for word in given):
        raise BadSignature("The delivery's signature does not match the endpoint's signing secret.")
    if abs(raw.received_at - sent_at) > TOLERANCE:
        raise BadSignature(f"{TIMESTAMP}: more than 5 minutes away from the time here")


def sign(message_id: str, timestamp: str, body: bytes, secret: str) -> str:
    """The signature Svix would send."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return "v1," + base64.b64encode(digest).decode()


def parse(raw: Raw) -> Event:
    """What the event says. Raises InvalidInput naming the field that is missing or of the wrong type."""
    told = _told(raw)
    return Event(told.type, told.facts(Moment(_happened_at(told.timestamp, _sent_at(raw)), raw.headers[ID])))


def kept(raw: Raw) -> bytes:
    """The same event, with what is read of it and nothing else: what may be kept. Raises InvalidInput."""
    return msgspec.json.encode(_told(raw))


def _told(raw: Raw) -> Told:
    body = raw.json_object()
    return read(body, SHAPES.get(read(body, Told, strict=True).type, Told), strict=True)


def _happened_at(told: int | None, sent_at: datetime) -> datetime:
    """When it happened. What cannot be true is treated as not told: the time of sending then stands in."""
    if told is None:
        return sent_at
    milliseconds = told * 1000 if told < SECONDS else told
    if not _milliseconds(EARLIEST) < milliseconds <= _milliseconds(sent_at + TOLERANCE):
        return sent_at
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _sent_at(raw: Raw) -> datetime:
    text = raw.headers[TIMESTAMP]
    if not re.fullmatch("[0-9]{1,11}", text):
        raise BadSignature(f"{TIMESTAMP}: must be a time in seconds")
    return datetime.fromtimestamp(int(text), UTC)

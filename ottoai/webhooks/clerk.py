"""Clerk's webhooks, as pure functions: whether an event is genuine, and whose access it ends.

Sources: Clerk's guide to its webhooks (`type`, `data`, and `timestamp`, the event's own time) and catalogue of events,
and Svix's on signatures, since it is Svix that sends them. An event that was not taken is sent again for about a day,
each time with a signature of that time, and events may come in any order: so what counts is when something happened,
never when it was told.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import msgspec

from ottoai.errors import BadSignature
from ottoai.webhooks.delivery import Raw
from ottoai.webhooks.fields import EARLIEST, read

NAME: Final = "clerk"
ID: Final = "svix-id"
TIMESTAMP: Final = "svix-timestamp"
SIGNATURE: Final = "svix-signature"
HEADERS: tuple[str, ...] = (ID, TIMESTAMP, SIGNATURE)

TOLERANCE: Final = timedelta(minutes=5)  # by which the time of sending may differ from the time of receipt
SECONDS: Final = 10**11  # Unix times below are in seconds (as in some of Clerk's examples), others in milliseconds

Word = Annotated[str, msgspec.Meta(min_length=1, max_length=100, pattern=r"^[!-~]*\Z")]  # ids and types are such


class Ending(msgspec.Struct, frozen=True):
    """Whose access ended, and when. `tenant_id` None: in every tenant; `user_id` None: every user's of the tenant."""

    tenant_id: str | None
    user_id: str | None
    at: datetime


class Event(msgspec.Struct, frozen=True):
    """An event, understood. `ending` None: nobody's access ends with it."""

    kind: str
    ending: Ending | None = None


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of every event that are read, with Clerk's names."""

    type: Word
    timestamp: int | None = None

    def whose(self) -> tuple[str | None, str | None] | None:
        """The tenant and the user whose access ends, as in Ending; None when it does not."""
        return None


class Named(msgspec.Struct, frozen=True):
    """What has an id."""

    id: Word


class User(Named, frozen=True, kw_only=True):
    """A user."""

    banned: bool | None = None


class Member(msgspec.Struct, frozen=True):
    """What a membership says of its user."""

    user_id: Word


class Membership(msgspec.Struct, frozen=True):
    """That a user belongs to an organisation."""

    organization: Named
    public_user_data: Member


class UserDeleted(Told, frozen=True, kw_only=True):
    """There is no such user any more."""

    data: Named

    def whose(self) -> tuple[str | None, str | None] | None:
        """The user's, in every tenant."""
        return None, self.data.id


class UserUpdated(Told, frozen=True, kw_only=True):
    """Something about a user has changed: perhaps that it may not sign in."""

    data: User

    def whose(self) -> tuple[str | None, str | None] | None:
        """The user's, in every tenant, if it is banned."""
        return (None, self.data.id) if self.data.banned else None


class MembershipDeleted(Told, frozen=True, kw_only=True):
    """A user does not belong to an organisation any more."""

    data: Membership

    def whose(self) -> tuple[str | None, str | None] | None:
        """The user's, in that tenant."""
        return self.data.organization.id, self.data.public_user_data.user_id


class OrganizationDeleted(Told, frozen=True, kw_only=True):
    """There is no such organisation any more."""

    data: Named

    def whose(self) -> tuple[str | None, str | None] | None:
        """Every user's, in that tenant."""
        return self.data.id, None


# The end of a session is not among them: tokens are not checked for their session, and revoking all of a user's would
# sign out the user's other devices.
SHAPES: Final[dict[str, type[Told]]] = {
    "user.deleted": UserDeleted,
    "user.updated": UserUpdated,
    "organizationMembership.deleted": MembershipDeleted,
    "organization.deleted": OrganizationDeleted,
}


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
    body = raw.json_object()
    kind = read(body, Told, strict=True).type
    told = read(body, SHAPES.get(kind, Told), strict=True)
    whose = told.whose()
    return Event(kind, Ending(*whose, _happened_at(told.timestamp, _sent_at(raw))) if whose else None)


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

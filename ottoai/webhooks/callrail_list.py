"""CallRail's list of calls, as pure functions: what to ask, how to read a page, and what a listed call says.

Source: CallRail's API reference (v3: «Listing All Calls», «Filtering by Date», «Offset Pagination», «Time Zones»). A
listed call has the fields of a webhook, but its `id` is the webhooks' `resource_id`, its `duration` a number, and what
it says is how the call stands now: no report of a moment, and perhaps of a call that is still going on. Getting the
list is the matter of callrail_api.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import msgspec

from ottoai.domain.calls import Facts, Report
from ottoai.domain.hours import e164
from ottoai.errors import InvalidInput, ProviderFailed
from ottoai.webhooks import callrail
from ottoai.webhooks.delivery import Delivery, Raw

PER_PAGE: Final = 250  # the most that CallRail gives
# Beyond the fields that come unasked: whether the call goes on, whose it is, and its source as webhooks name it.
FIELDS: Final = "call_type,company_id,source_name"
COMPANY_ID: Final = "COM"  # how a company's id in the API begins; calls are listed with it, and only it selects them
IN_PROGRESS: Final = "in_progress"
# A call without a length or a voicemail looks like one that rings: those say unanswered and 0 seconds, too. It is taken
# to be over when CallRail itself stops waiting: its final report comes 20 minutes after hang-up at the latest.
RINGING: Final = timedelta(minutes=20)

_MINUTE: Final = "%Y-%m-%dT%H:%M"  # the one form with a time of day that CallRail documents


class Span(msgspec.Struct, frozen=True):
    """Calls that began from `since` to `until`."""

    since: datetime
    until: datetime


class Page(msgspec.Struct, frozen=True):
    """One page of the list; each call as it came."""

    calls: Annotated[list[msgspec.Raw], msgspec.Meta(max_length=PER_PAGE)]
    total_pages: int | None = None

    def is_last(self, number: int) -> bool:
        """Whether none follows it. An empty one ends the list whatever it says."""
        if self.total_pages is None:
            return len(self.calls) < PER_PAGE
        return not self.calls or number >= self.total_pages


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A call of the list. `delivery`: what it says, or `error`: why that cannot be read. `ended`: it is over.
    `company`, `number`: whose it is, as far as it is told.
    """

    raw: Raw
    id: str
    company: str
    number: str
    started_at: datetime | None = None
    ended: bool = False
    delivery: Delivery | None = None
    error: str = ""


class _Label(msgspec.Struct, frozen=True):
    """What is read of any call, be the rest what it may."""

    id: int | str | None = None
    call_type: str | None = None
    company_id: int | str | None = None
    tracking_phone_number: str | None = None


def query(span: Span, page: int, company: str | None) -> dict[str, str]:
    """The parameters that ask for a page. Oldest first: a call that begins meanwhile moves none of the others."""
    return {
        # Both ends belong to the span, in whole minutes. Without a zone they would be read in the token's user's.
        "start_date": span.since.astimezone(UTC).strftime(_MINUTE),
        "end_date": (span.until.astimezone(UTC) + timedelta(minutes=1)).strftime(_MINUTE),
        "time_zone": "Etc/UTC",
        "sort": "start_time",
        "order": "asc",
        "fields": FIELDS,
        "per_page": str(PER_PAGE),
        "page": str(page),
        **({"company_id": company} if company else {}),
    }


def read_page(body: bytes) -> Page:
    """A page. Raises ProviderFailed when it is none."""
    try:
        return msgspec.json.decode(body, type=Page)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ProviderFailed("invalid", "CallRail's answer is no list of calls.") from error


def read_call(call: msgspec.Raw, now: datetime) -> Listed:
    """A listed call, at the time of its receipt. Whatever is wrong with it is told, not raised."""
    body = bytes(call)
    raw = Raw(provider=callrail.NAME, kind=callrail.LISTED, hook="", headers={}, body=body, received_at=now)
    label = _label(body)
    listed = Listed(
        raw=raw,
        id=str(label.id or ""),
        company=str(label.company_id or ""),
        number=e164(label.tracking_phone_number) or "",
    )
    try:
        delivery = callrail.parse(raw)
    except InvalidInput as error:
        return msgspec.structs.replace(listed, error=error.detail)
    assert isinstance(delivery.report, Report)  # a list of calls holds no texts
    facts = delivery.report.facts
    ended = label.call_type != IN_PROGRESS and _ended(facts, now)
    return msgspec.structs.replace(listed, delivery=delivery, ended=ended, started_at=facts.started_at)


def _label(body: bytes) -> _Label:
    try:
        return msgspec.json.decode(body, type=_Label)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return _Label()


def _ended(facts: Facts, now: datetime) -> bool:
    if facts.answered is None:
        return False
    if facts.duration_seconds or facts.voicemail:
        return True
    return facts.started_at is not None and facts.started_at < now - RINGING

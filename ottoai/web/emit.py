"""/ws/test-emit: put an event of one's own into a tenant's log, to see whether it arrives. Not in production."""

import hmac
import logging
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from ottoai import trace
from ottoai.db import queries
from ottoai.domain import catalogue, events, tenants
from ottoai.domain.events import Appended, Event
from ottoai.errors import Forbidden, InvalidInput, NotFound
from ottoai.web import edge, inputs, keys
from ottoai.web.api.reading import respond
from ottoai.web.claims import MAX_ID

logger = logging.getLogger(__name__)


TRUE: Final = frozenset({"1", "true", "yes"})
# A name that may be emitted. Names of tests could be anybody's words; these fit into a URL as they are.
NAME: Final = "^(test[.][A-Za-z0-9._-]+|" + "|".join(event.replace(".", "[.]") for event in catalogue.EVENTS) + ")$"


class EmitQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to emit, and to whom."""

    event: Annotated[
        str,
        Meta(
            pattern=NAME,
            max_length=100,
            description="`test.` and something, or an event of the catalogue.",
            examples=["test.hello"],
        ),
    ]
    tenant_id: Annotated[str, Meta(min_length=1, description="Whose event it is.", examples=["demo"])]
    lead_id: Annotated[UUID, Meta(description="A lead of the tenant, whose timeline then has it.")] | UnsetType = UNSET
    user_id: Annotated[str, Meta(max_length=MAX_ID, description="A user, whose channel has it.")] | UnsetType = UNSET
    transient: Annotated[
        Literal["1", "true", "yes", "0", "false", "no"], Meta(description="It has no number, and is told but not kept.")
    ] = "no"


class Emitted(msgspec.Struct, frozen=True):
    """What was emitted, and where it is heard."""

    success: bool
    event: str
    seq: int | None
    channels: tuple[str, ...]
    tenant_id: str
    trace_id: str


async def test_emit(request: web.Request) -> web.Response:
    """Emit `event` to `tenant_id`; optional lead_id, user_id, transient; a POST's JSON object is the event's data."""
    app = request.app
    if app[keys.CONFIG].environment == "production":
        raise NotFound("There is nothing at this address.")
    _check_key(request)
    draft, transient, tenant_id = await _draft(request)
    if not await tenants.exists(app[keys.DB].system(), tenant_id):
        raise NotFound(f"There is no tenant {tenant_id}.")
    lead_id = draft.get("lead_id")
    session = app[keys.DB].one(tenant_id)
    if lead_id and not await queries().leads.lead_exists(session, id=lead_id):
        raise NotFound(f"The tenant has no lead {lead_id}.")
    appended = _transient(tenant_id, draft) if transient else await events.append(session, trace.trace_id(), [draft])
    app[keys.BUS].publish(appended)
    event = appended.events[0]
    body = Emitted(True, event.event, event.seq, event.channels, tenant_id, trace.trace_id())
    response = respond(body)
    response.headers["Cache-Control"] = "no-store"
    return response


def _check_key(request: web.Request) -> None:
    given = request.headers.get("X-Dev-Key", "").encode()
    keys_by_id = request.app[keys.CONFIG].test_emit_keys
    matching = [name for name, key in keys_by_id.items() if hmac.compare_digest(given, key.encode())]
    if not matching:
        raise Forbidden("X-Dev-Key: is missing or wrong; see DEV_KEYS.")
    logger.info("Test event asked for", extra={"dev_key_id": matching[0]})


async def _draft(request: web.Request) -> tuple[dict[str, Any], bool, str]:
    asked = inputs.query(request, EmitQuery)
    data: object = {}
    if request.method == "POST" and (body := await edge.body(request)):
        try:
            data = msgspec.json.decode(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise InvalidInput(f"body: not JSON ({error})") from error
        if not isinstance(data, dict):
            raise InvalidInput("body: must be a JSON object")
    lead_id = str(asked.lead_id) if asked.lead_id else None
    draft = {"event": asked.event, "data": data, "lead_id": lead_id, "user_id": asked.user_id or None}
    return draft, asked.transient in TRUE, asked.tenant_id


def _transient(tenant_id: str, draft: dict[str, Any]) -> Appended:
    event = Event(
        tenant_id=tenant_id,
        seq=None,
        event=draft["event"],
        ts=datetime.now(UTC),
        severity="info",
        trace_id=trace.trace_id(),
        lead_id=draft["lead_id"],
        user_id=draft["user_id"],
        data=msgspec.Raw(msgspec.json.encode(draft["data"])),
    )
    return Appended(tenant_id, 0, (event,))

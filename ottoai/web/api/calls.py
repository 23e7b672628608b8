"""GET /api/calls and /api/calls/{id}."""

from typing import Literal
from uuid import UUID

from aiohttp import web
from msgspec import UNSET, UnsetType
from msgspec.structs import force_setattr

from ottoai.db import queries
from ottoai.web import inputs
from ottoai.web.api import reading
from ottoai.web.inputs import Moment, PageQuery, Phone, Prefix


class CallQuery(PageQuery, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Which calls. `phone`: of the customer, in any form; `name`: how theirs begins, in any case; `since`, `until`:
    when they began, from the one and before the other.
    """

    status: Literal["ringing", "routed", "completed"] | UnsetType = UNSET
    direction: Literal["inbound", "outbound"] | UnsetType = UNSET
    answered: bool | UnsetType = UNSET
    missed: bool | UnsetType = UNSET
    lead_id: UUID | UnsetType = UNSET
    phone: Phone | UnsetType = UNSET
    name: Prefix | UnsetType = UNSET
    since: Moment | UnsetType = UNSET
    until: Moment | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.phone is not UNSET:
            force_setattr(self, "phone", inputs.phone(self.phone))


async def list_calls(request: web.Request) -> web.Response:
    """The tenant's calls, newest first."""
    return await reading.listing(request, "calls", queries().calls.list_calls, inputs.query(request, CallQuery))


async def get_call(request: web.Request) -> web.Response:
    """One call."""
    return await reading.one(request, queries().calls.get_call, id=reading.row_id(request))

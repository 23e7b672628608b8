"""GET /api/leads and /api/leads/{id}."""

from aiohttp import web
from msgspec import UNSET, UnsetType
from msgspec.structs import force_setattr

from ottoai.db import queries
from ottoai.web import inputs
from ottoai.web.api import reading
from ottoai.web.inputs import PageQuery, Prefix


class LeadQuery(PageQuery, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Which leads. `phone`: in any form; `name`: how it begins, in any case."""

    phone: str | UnsetType = UNSET
    name: Prefix | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.phone is not UNSET:
            force_setattr(self, "phone", inputs.phone(self.phone))


async def list_leads(request: web.Request) -> web.Response:
    """The tenant's leads, latest contact first."""
    return await reading.listing(request, "leads", queries().leads.list_leads, inputs.query(request, LeadQuery))


async def get_lead(request: web.Request) -> web.Response:
    """One lead."""
    return await reading.one(request, queries().leads.get_lead, id=reading.row_id(request))

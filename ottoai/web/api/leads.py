"""GET /api/leads and /api/leads/{id}, PATCH /api/leads/{id}."""

from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType
from msgspec.structs import force_setattr

from ottoai import trace
from ottoai.db import queries
from ottoai.domain import changes, patterns
from ottoai.web import inputs, keys
from ottoai.web.api import reading, writing
from ottoai.web.inputs import PageQuery, Phone, Prefix

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200, extra_json_schema={"pattern": patterns.LINE})]


class LeadQuery(PageQuery, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Which leads. `phone`: in any form; `name`: how it begins, in any case."""

    phone: Phone | UnsetType = UNSET
    name: Prefix | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.phone is not UNSET:
            force_setattr(self, "phone", inputs.phone(self.phone))


class LeadPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may be changed of a lead; what is left out stays. `name` null: not known."""

    name: Name | UnsetType | None = UNSET

    def __post_init__(self) -> None:
        patterns.check("name", self.name, patterns.LINE)


async def list_leads(request: web.Request) -> web.Response:
    """The tenant's leads, latest contact first."""
    return await reading.listing(request, "leads", queries().leads.list_leads, inputs.query(request, LeadQuery))


async def get_lead(request: web.Request) -> web.Response:
    """One lead."""
    return await reading.one(request, queries().leads.get_lead, id=reading.row_id(request))


async def change_lead(request: web.Request) -> web.Response:
    """Change a lead's name."""
    patch, versions = await writing.body(request, LeadPatch), writing.versions(request)
    principal = request[keys.PRINCIPAL]
    change = await changes.change_lead(
        reading.session(request),
        principal.tenant_id,
        reading.row_id(request),
        patch,
        versions,
        user_id=principal.user_id,
        trace_id=trace.trace_id(),
    )
    return writing.changed(request, change)

"""GET and PATCH /api/settings."""

from datetime import date
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, UnsetType, structs

from ottoai.db import queries
from ottoai.domain import changes, hours, patterns, settings
from ottoai.domain.roles import Role
from ottoai.web import auth, keys
from ottoai.web.api import reading, writing

Name = Annotated[str, Meta(min_length=1, max_length=settings.NAME_LENGTH, extra_json_schema={"pattern": patterns.LINE})]
Zone = Annotated[str, Meta(max_length=100, examples=["America/New_York"], extra_json_schema={"format": "time-zone"})]
Hours = Annotated[
    str, Meta(max_length=500, examples=["always", hours.DEFAULT], extra_json_schema={"format": "opening-hours"})
]
Template = Annotated[
    str, Meta(min_length=1, max_length=settings.TEXT_LENGTH, extra_json_schema={"pattern": patterns.TEMPLATE})
]


class SettingsPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may be changed of the settings; what is left out stays. The texts may hold `{company}`, which becomes the
    tenant's name; null is the text of the house. `sla_minutes` are of open time.
    """

    name: Name | UnsetType = UNSET
    timezone: Zone | UnsetType = UNSET
    hours: Hours | UnsetType = UNSET
    holidays: Annotated[list[date], Meta(max_length=settings.HOLIDAYS)] | UnsetType = UNSET
    texts_enabled: bool | UnsetType = UNSET
    first_text: Template | UnsetType | None = UNSET
    follow_up_text: Template | UnsetType | None = UNSET
    sla_minutes: Annotated[int, Meta(ge=settings.SLA_MINUTES.start, le=settings.SLA_MINUTES.stop - 1)] | UnsetType = (
        UNSET
    )

    def __post_init__(self) -> None:
        given = {name: value for name, value in structs.asdict(self).items() if value is not UNSET}
        for name, checked in settings.check_settings(given).items():
            structs.force_setattr(self, name, checked)


async def get_settings(request: web.Request) -> web.Response:
    """The tenant's own settings."""
    return await reading.one(request, queries().settings.get_settings)


async def change_settings(request: web.Request) -> web.Response:
    """Change the tenant's settings; managers and programs may."""
    principal = request[keys.PRINCIPAL]
    auth.demand(principal, Role.MANAGER, Role.SERVICE)
    patch, versions = await writing.body(request, SettingsPatch), writing.versions(request)
    change = await changes.change_settings(reading.session(request), principal.tenant_id, patch, versions)
    return writing.changed(request, change)

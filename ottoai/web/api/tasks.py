"""PATCH /api/tasks/{id}."""

from typing import Annotated, Final, Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from ottoai import trace
from ottoai.domain import tasks
from ottoai.web import keys, patterns
from ottoai.web.api import reading, writing
from ottoai.web.claims import MAX_ID

ME: Final = "me"

Assignee = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID, extra_json_schema={"pattern": patterns.LINE})]


class TaskPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may be changed of a task; what is left out stays. `assigned_to`: a user's id, `me`, or null for nobody."""

    status: Literal["open", "done"] | UnsetType = UNSET
    assigned_to: Assignee | UnsetType | None = UNSET

    def __post_init__(self) -> None:
        patterns.check("assigned_to", self.assigned_to, patterns.LINE)


async def change_task(request: web.Request) -> web.Response:
    """Assign, complete or reopen a task."""
    patch, versions = await writing.body(request, TaskPatch), writing.versions(request)
    principal = request[keys.PRINCIPAL]
    if patch.assigned_to == ME:
        patch = msgspec.structs.replace(patch, assigned_to=principal.user_id)
    change = await tasks.change(
        reading.session(request),
        principal.tenant_id,
        writing.row_id(request),
        patch,
        versions,
        principal.user_id,
        trace.trace_id(),
    )
    return writing.changed(request, change)

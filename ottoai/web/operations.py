"""What clients need to know of each route beside what its handler's docstring says: what it takes and what it answers.
openapi.py makes the document of it.

The types named here are those that the handlers themselves read and write; tests hold one against the other, and the
whole against the route table.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final, NamedTuple

import msgspec

from ottoai import errors
from ottoai.domain.catalogue import Call, Lead, Message, MissedCall, Settings, Task
from ottoai.errors import OttoError
from ottoai.web import emit, health, internal
from ottoai.web.api import (
    calls,
    events,
    leads,
    messages,
    missed_calls,
    reading,
    settings,
    tasks,
    timeline,
    writing,
)
from ottoai.web.schemas import Json, Kind
from ottoai.web.wording import signature_of
from ottoai.webhooks import twilio
from ottoai.webhooks.delivery import Provider
from ottoai.webhooks.receive import PROVIDERS, Receipt


class Content(NamedTuple):
    """A body that is no struct of ours."""

    media: str
    schema: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one route."""

    tag: str
    answer: Kind | Content
    status: int = 200
    others: tuple[tuple[int, str, Kind | Content], ...] = ()  # (status, when, body)
    query: Kind | None = None
    body: Kind | Content | None = None
    media: tuple[str, ...] = ("application/json",)  # in which the body is read, if it is a struct
    headers: tuple[str, ...] = ()  # of wording.REQUEST_HEADERS
    answers_with: tuple[str, ...] = ()  # of wording.ANSWER_HEADERS
    raises: tuple[type[OttoError], ...] = ()
    security: tuple[str, ...] = ()
    links: tuple[str, ...] = ()  # operations that take the id of what this one answers

    @property
    def conditional(self) -> bool:
        """Whether a client can ask for it only if it has changed."""
        return "If-None-Match" in self.headers


@cache
def page_of(name: str, item: Any) -> Kind:
    """The type of a page of these, called by their name."""
    fields = [
        (field.encode_name, list[item] if field.name == "items" else field.type)
        for field in msgspec.structs.fields(reading.Page)
    ]
    namespace = {"__doc__": reading.Page.__doc__}
    return msgspec.defstruct(f"{name}Page", fields, namespace=namespace, frozen=True)


def document(description: str) -> Content:
    """A JSON document that another standard describes."""
    return Content("application/json", {"type": "object", "description": description})


EMITTED: Final = (
    errors.InvalidInput, errors.Forbidden, errors.NotFound, errors.TooLarge, errors.RateLimited,
    errors.StoreUnavailable,
)  # fmt: skip
DELIVERED: Final = (
    errors.InvalidInput, errors.BadSignature, errors.NotFound, errors.TooLarge, errors.NoRoom, errors.StoreUnavailable,
)  # fmt: skip
LIVE: Final = (errors.NotFound, errors.OverQuota, errors.Draining)
REPORT: Final = Content(
    "application/json", {"type": "object", "description": "As the provider sends it; docs/WEBHOOKS.md has its fields."}
)
CALLBACK: Final = Content("application/x-www-form-urlencoded", REPORT.schema)
TWIML: Final = Content("text/xml", {"type": "string", "description": "Empty TwiML: no instructions."})
STREAM: Final = Content(
    "text/event-stream",
    {"description": "Messages of the live protocol, as /asyncapi.json describes them."},
)


CHANGING: Final = (
    errors.NotFound, errors.PreconditionFailed, errors.TooLarge, errors.UnsupportedMedia, errors.PreconditionRequired,
)  # fmt: skip


def _listing(tag: str, kind: Kind, query: Kind, *links: str, raises: tuple[type[OttoError], ...] = ()) -> Operation:
    return Operation(
        tag=tag,
        answer=page_of(kind.__name__, kind),
        query=query,
        headers=("If-None-Match",),
        links=links,
        raises=raises,
    )


def _thing(tag: str, kind: Kind) -> Operation:
    return Operation(tag=tag, answer=kind, headers=("If-None-Match",), raises=(errors.NotFound,))


def _change(tag: str, kind: Kind, body: Kind, *raises: type[OttoError]) -> Operation:
    return Operation(
        tag=tag,
        answer=kind,
        body=body,
        media=writing.PATCHES,
        headers=("If-Match",),
        answers_with=("ETag",),
        raises=(*raises, *CHANGING),
    )


UNCLAIMED: Final = (202, "Nobody has added this company yet: kept, and taken in when somebody does.", Receipt)


def _reported(provider: Provider) -> Operation:
    """A report of a provider's."""
    found = Operation(
        tag="Webhooks",
        answer=Receipt,
        others=(UNCLAIMED,),
        body=REPORT,
        raises=DELIVERED,
        security=(signature_of(provider),),
    )
    if provider.NAME == twilio.NAME:
        unclaimed = (*UNCLAIMED[:2], TWIML)
        return replace(found, answer=TWIML, others=(unclaimed,), body=CALLBACK, answers_with=("X-Webhook-Status",))
    return found


OPERATIONS: Final[dict[tuple[str, str], Operation]] = {
    ("GET", "/api/calls"): _listing("Calls", Call, calls.CallQuery, "getCall"),
    ("GET", "/api/calls/{id}"): _thing("Calls", Call),
    ("GET", "/api/leads"): _listing("Leads", Lead, leads.LeadQuery, "getLead", "listTimeline", "listMessages"),
    ("GET", "/api/leads/{id}"): _thing("Leads", Lead),
    ("PATCH", "/api/leads/{id}"): _change("Leads", Lead, leads.LeadPatch),
    ("GET", "/api/leads/{id}/timeline"): Operation(
        tag="Leads",
        answer=page_of("Timeline", timeline.Happened),
        query=timeline.TimelineQuery,
        headers=("If-None-Match",),
        raises=(errors.NotFound,),
    ),
    ("GET", "/api/leads/{id}/messages"): _listing(
        "Messages", Message, messages.MessageQuery, raises=(errors.NotFound,)
    ),
    ("POST", "/api/leads/{id}/messages"): Operation(
        tag="Messages",
        answer=Message,
        status=202,
        body=messages.NewMessage,
        headers=("Idempotency-Key",),
        answers_with=("Idempotency-Replayed",),
        raises=(errors.NotFound, errors.OptedOut, errors.TooLarge, errors.UnsupportedMedia, errors.Unprocessable),
    ),
    ("GET", "/api/tasks"): _listing("Tasks", Task, tasks.TaskQuery, "getTask"),
    ("GET", "/api/tasks/{id}"): _thing("Tasks", Task),
    ("PATCH", "/api/tasks/{id}"): _change("Tasks", Task, tasks.TaskPatch),
    ("GET", "/api/missed-calls"): _listing("Missed calls", MissedCall, missed_calls.MissedCallQuery, "getMissedCall"),
    ("GET", "/api/missed-calls/{id}"): _thing("Missed calls", MissedCall),
    ("GET", "/api/settings"): _thing("Settings", Settings),
    ("PATCH", "/api/settings"): _change("Settings", Settings, settings.SettingsPatch, errors.Forbidden),
    ("GET", "/api/events"): Operation(tag="Events", answer=events.Events, query=events.EventQuery, raises=LIVE),
    ("GET", "/api/events/stream"): Operation(
        tag="Events", answer=STREAM, query=events.StreamQuery, headers=("Last-Event-ID",), raises=LIVE
    ),
    ("GET", "/openapi.json"): Operation(tag="Documents", answer=document("OpenAPI 3.1."), headers=("If-None-Match",)),
    ("GET", "/asyncapi.json"): Operation(tag="Documents", answer=document("AsyncAPI 3.0."), headers=("If-None-Match",)),
    ("GET", "/docs/problems/{type}"): Operation(
        tag="Documents", answer=Content("text/plain", {"type": "string"}), raises=(errors.NotFound,)
    ),
    ("GET", "/health"): Operation(
        tag="Service",
        answer=internal.Alive,
        others=((503, "The process is about to stop.", internal.Alive),),
    ),
    ("GET", "/ready"): Operation(
        tag="Service",
        answer=health.Readiness,
        others=((503, "It cannot do its work now.", health.Readiness),),
    ),
    ("GET", "/ws/test-emit"): Operation(
        tag="Testing", answer=emit.Emitted, query=emit.EmitQuery, raises=EMITTED, security=("devKey",)
    ),
    ("POST", "/ws/test-emit"): Operation(
        tag="Testing",
        answer=emit.Emitted,
        query=emit.EmitQuery,
        body=Content("application/json", {"type": "object", "description": "The event's data."}),
        raises=EMITTED,
        security=("devKey",),
    ),
    **{
        ("POST", f"/{each.FOLDER}/{{kind}}{hook}"): _reported(each)
        for each in PROVIDERS.values()
        for hook in ("", "/{hook}")
    },
    ("POST", "/clerk/webhook"): Operation(
        tag="Webhooks", answer=Receipt, body=REPORT, raises=DELIVERED, security=("clerkSignature",)
    ),
}

# What is no client's business: pages and figures for operators and developers, files, and the live protocol, which
# /asyncapi.json describes.
UNDESCRIBED: Final = frozenset(
    {
        ("GET", "/internal/worker/heartbeat"),
        ("GET", "/metrics"),
        ("GET", "/ws"),
        ("GET", "/ops"),
        ("GET", "/ops.txt"),
        ("GET", "/ops.json"),
        ("GET", "/ops/alerts"),
        ("GET", "/ops/quarantine"),
        ("GET", "/ops/jobs"),
        ("GET", "/ops/jobs/{id}"),
        ("GET", "/ops/audit"),
        ("POST", "/ops/jobs/retry"),
        ("POST", "/ops/jobs/discard"),
        ("POST", "/ops/quarantine/replay"),
        ("POST", "/ops/alerts/acknowledge"),
        ("POST", "/ops/connections/kick"),
        ("POST", "/ops/queues/pause"),
        ("POST", "/ops/queues/resume"),
        ("GET", "/static/{name}"),
        ("GET", "/docs"),
        ("GET", "/demo"),
        ("GET", "/demo/token"),
        ("GET", "/demo/samples/{name}"),
    }
)

"""GET /openapi.json: the API as an OpenAPI 3.1 document, made from the route table, operations.py, the types that
handlers read and write, and the handlers' docstrings.
"""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Final

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from ottoai import __version__, errors
from ottoai.domain import catalogue
from ottoai.errors import OttoError
from ottoai.realtime.messages import Envelope
from ottoai.web import asyncapi, auth, document, examples, jwks, problem
from ottoai.web.api import writing
from ottoai.web.api.events import PLACE, Events
from ottoai.web.operations import OPERATIONS, Content, Operation
from ottoai.web.schemas import Json, Kind, answers, ref, requests, schema_ref, sentence

PARAMETER: Final = re.compile(r"\{(\w+)(?::((?:[^{}]|\{[^{}]*\})*))?\}")
API: Final = "/api/"
# What every request under /api/ may meet.
OF_API: Final = (errors.InvalidInput, errors.Unauthenticated, errors.RateLimited, errors.StoreUnavailable)
OF_STATUS: Final = {401: ("WWW-Authenticate",), 412: ("ETag",), 429: ("Retry-After",), 503: ("Retry-After",)}
FORM: Final = "application/x-www-form-urlencoded"
PROBLEM: Final = problem.CONTENT_TYPE
INTRODUCTION: Final = "Calls, leads, texts, tasks and missed calls of one tenant: the one that the token names."
RULES: Final = (
    "Every request under `/api/` carries `Authorization: Bearer <jwt>`.",
    "Errors are `application/problem+json` (RFC 9457). The `detail` begins with the name of the field that is wrong.",
    "The `type` of an error leads to an explanation; its `trace_id` finds it in our logs.",
    "Lists answer `items` and `next_cursor`: the `cursor` of the next page, beside the same filters; null on the last.",
    "An answer with an `ETag` can be asked for again with `If-None-Match`: 304 while it is still so.",
    "A change says in `If-Match` what it was made on: the `ETag` that was last seen.",
    "Times are RFC 3339 in UTC, phone numbers E.164.",
    "Answers may get new fields, and fields new words: ignore what you do not know.",
    "What happens is told live over `/ws` and `/api/events/stream`: `/asyncapi.json`.",
)

TAGS: Final = {
    "Calls": "Phone calls, as the providers reported them.",
    "Leads": "Who called or texted, or was called or texted: one for each phone number.",
    "Messages": "Text messages.",
    "Tasks": "What there is to do for the tenant's staff.",
    "Missed calls": "Missed calls, and how the rescue of each stands.",
    "Settings": "The tenant's own.",
    "Events": "The tenant's log, live.",
    "Documents": "The API about itself.",
    "Service": "Whether the service is well.",
    "Testing": "Events of one's own, to see whether they arrive. Not served in production.",
    "Webhooks": "Where the telephony and identity providers deliver.",
}

TAG: Final = '(W/)?"[!#-~]+"'
KEY: Final = f"^[!-~]{{1,{writing.MAX_KEY}}}$"
REQUEST_HEADERS: Final[dict[str, Json]] = {
    "If-None-Match": {
        "description": "The `ETag` of an earlier answer: 304 without a body if that is still so.",
        "schema": {"type": "string", "examples": ['"0f1e2d3c4b5a69788796a5b4c3d2e1f0"']},
    },
    "If-Match": {
        "description": "The `ETag` that was last seen; 412 if the thing has changed since.",
        "required": True,
        "schema": {"type": "string", "pattern": f"^([*]|{TAG}(, *{TAG})*)$", "examples": ['"3"']},
    },
    "Idempotency-Key": {
        "description": "A word of your own, a UUID for instance: repeating the request with it has no second effect.",
        "schema": {"type": "string", "pattern": KEY, "examples": ["5c2f7a53-8f0e-4f57-9d30-2b9c1a6b7d11"]},
    },
    "Last-Event-ID": {
        "description": "The `id` of the last event that was read, to go on after it. Counts more than `since`.",
        "schema": {"type": "string", "pattern": f"^({PLACE[1:-1]})?$", "examples": ["1795468818.42"]},
    },
}

ANSWER_HEADERS: Final[dict[str, Json]] = {
    "X-Request-Id": {"description": "The request's own, if it is sane; else the trace id.", "required": True},
    "ETag": {"description": "What `If-None-Match` takes, and for a single thing `If-Match`.", "required": True},
    "RateLimit": {"description": "How the limits stand (draft-ietf-httpapi-ratelimit-headers).", "required": True},
    "RateLimit-Policy": {"description": "The limits.", "required": True},
    "Retry-After": {"description": "Seconds to wait, where that is known."},
    "Idempotency-Replayed": {"description": "`true`: the answer to an earlier request with the same key."},
    "X-Webhook-Status": {"description": "What became of the delivery: `status` of Receipt.", "required": True},
    "WWW-Authenticate": {"description": "`Bearer`.", "required": True},
}

PATH_PARAMETERS: Final[dict[str, Json]] = {
    "id": {"description": "The thing's id.", "schema": {"type": "string", "format": "uuid"}},
    "hook": {"description": "The tenant's own unguessable path.", "schema": {"type": "string", "minLength": 1}},
    "kind": {"description": "What is reported.", "schema": {"type": "string"}},
    "type": {
        "description": "The last part of a problem's `type`.",
        "schema": {"type": "string", "minLength": 1, "examples": [errors.NotFound.type]},
    },
}

SECURITY: Final[dict[str, Json]] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": f"A JWT ({jwks.ALGORITHM} or {auth.ALGORITHM}, as configured) with `exp`, `iat`, `sub`, and one "
        "org as `org_id` or `o.id`, which is the tenant.",
    },
    "devKey": {"type": "apiKey", "in": "header", "name": "X-Dev-Key", "description": "One of DEV_KEYS."},
    "callRailSignature": {
        "type": "apiKey",
        "in": "header",
        "name": "Signature",
        "description": "base64(HMAC-SHA1(signing key of the company, body)).",
    },
    "twilioSignature": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Twilio-Signature",
        "description": "base64(HMAC-SHA1(auth token, URL and sorted form)).",
    },
    "clerkSignature": {
        "type": "apiKey",
        "in": "header",
        "name": "svix-signature",
        "description": "`v1,` and base64(HMAC-SHA256(secret, id.timestamp.body)), with `svix-id` and `svix-timestamp`.",
    },
}


def make(routes: Iterable[tuple[str, str, Handler]]) -> Json:
    """The whole document, of those of the routes that OPERATIONS describes."""
    described = [
        (path, method.lower(), _Described(method, path, handler, OPERATIONS[method, plain(path)]))
        for method, path, handler in routes
        if (method, plain(path)) in OPERATIONS
    ]
    paths: Json = {}
    for path, method, each in described:
        item = paths.setdefault(plain(path), {})
        if parameters := _path_parameters(path):
            item["parameters"] = parameters
        item[method] = each.document()
    raised = {each.name: each for _, _, found in described for each in found.problems()}
    return {
        "openapi": "3.1.0",
        "info": {"title": "OttoAI API", "version": __version__, "description": _description()},
        "servers": [{"url": "/", "description": "Where this document came from."}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {
            "securitySchemes": SECURITY,
            "headers": {name: {**told, "schema": {"type": "string"}} for name, told in ANSWER_HEADERS.items()},
            "responses": {name: raised[name].document() for name in sorted(raised)},
            "schemas": _schemas(),
        },
    }


def _description() -> str:
    return "\n".join([INTRODUCTION, "", *(f"- {rule}" for rule in RULES)])


def plain(path: str) -> str:
    """A route's path without the patterns of its parameters."""
    return PARAMETER.sub(r"{\1}", path)


def operation_id(handler: Handler, method: str, path: str) -> str:
    """`list_calls` is listCalls. A handler of several routes has an id for each."""
    first, *others = getattr(handler, "__name__", "").split("_")
    name = first + "".join(word.capitalize() for word in others)
    if path.endswith("/{hook}"):
        return f"{name}ByHook"
    return f"{name}WithData" if (method, path) == ("POST", "/ws/test-emit") else name


class _Problems:
    """The errors of one status as one answer."""

    def __init__(self, status: int, kinds: tuple[type[OttoError], ...]) -> None:
        self.status = status
        self.kinds = kinds
        self.name = "-".join(kind.__name__ for kind in kinds)

    def document(self) -> Json:
        kind = self.kinds[0]
        example = problem.Problem(
            problem.TYPES + kind.type, kind.title, kind.status, sentence(kind), "/api/calls", examples.TRACE
        )
        headers = ["X-Request-Id", *OF_STATUS.get(self.status, ())]
        types = list(dict.fromkeys(problem.TYPES + each.type for each in self.kinds))
        return {
            "description": " ".join(f"`{each.type}`: {sentence(each)}" for each in self.kinds),
            "headers": {name: ref(f"components/headers/{name}") for name in headers},
            "content": {
                PROBLEM: {
                    "schema": {
                        "allOf": [schema_ref("Problem")],
                        "properties": {"type": {"enum": types}, "status": {"const": self.status}},
                    },
                    "examples": {kind.type: {"value": msgspec.to_builtins(example)}},
                }
            },
        }


class _Described:
    """One operation on its way into the document."""

    def __init__(self, method: str, path: str, handler: Handler, operation: Operation) -> None:
        self.id = operation_id(handler, method, path)
        self.text = sentence(handler)
        self.of_api = path.startswith(API)
        self.operation = operation

    def problems(self) -> list[_Problems]:
        by_status: dict[int, list[type[OttoError]]] = {}
        for kind in (*(OF_API if self.of_api else ()), *self.operation.raises):
            found = by_status.setdefault(kind.status, [])
            if kind not in found:
                found.append(kind)
        return [_Problems(status, tuple(kinds)) for status, kinds in sorted(by_status.items())]

    def document(self) -> Json:
        operation = self.operation
        made: Json = {
            "operationId": self.id,
            "tags": [operation.tag],
            "summary": re.split(r"(?<=[.])\s|[:;] ", self.text, maxsplit=1)[0].rstrip("."),
            "description": f"{self.text} {_filters(operation.query)}".rstrip(),
        }
        if parameters := [*_query_parameters(operation.query), *_header_parameters(operation.headers)]:
            made["parameters"] = parameters
        if operation.body:
            content = _content(operation.body, *operation.media)
            made["requestBody"] = {"required": FORM not in content, "content": content}  # no form is an empty form
        made["responses"] = self._responses()
        names = ("bearer",) if self.of_api else operation.security
        # Deliveries of companies that nobody has added yet come with signatures that nobody can check yet.
        made["security"] = [{name: []} for name in names] + ([{}] if operation.tag == "Webhooks" else [])
        return made

    def _responses(self) -> Json:
        operation = self.operation
        names = ["X-Request-Id", *(["ETag"] if operation.conditional else []), *operation.answers_with]
        names += ["RateLimit", "RateLimit-Policy"] if self.of_api else []
        headers = {name: ref(f"components/headers/{name}") for name in names}
        good: Json = {"description": _told(operation.answer), "headers": headers, "content": _content(operation.answer)}
        if operation.links:
            good["links"] = {
                name: {"operationId": name, "parameters": {"id": "$response.body#/items/0/id"}}
                for name in operation.links
            }
        made: dict[str, Json] = {str(operation.status): good}
        for status, when, body in operation.others:
            made[str(status)] = {"description": when, "content": _content(body)}
        if operation.conditional:
            kept = {name: headers[name] for name in ("X-Request-Id", "ETag")}
            made["304"] = {"description": "It is still as `If-None-Match` says.", "headers": kept}
        for each in self.problems():
            if str(each.status) in made:
                made[str(each.status)]["content"] |= each.document()["content"]
            else:
                made[str(each.status)] = ref(f"components/responses/{each.name}")
        return dict(sorted(made.items()))


def _filters(kind: Kind | None) -> str:
    """What a query's docstring says of its fields: what comes after what it says of itself."""
    return sentence(kind).partition(". ")[2] if kind else ""


def _told(kind: Kind | Content) -> str:
    return str(kind.schema.get("description", "As asked.")) if isinstance(kind, Content) else sentence(kind)


def _content(kind: Kind | Content, *media: str) -> Json:
    if isinstance(kind, Content):
        return {kind.media: {"schema": kind.schema}}
    return {each: {"schema": schema_ref(kind.__name__)} for each in media or ("application/json",)}


def _path_parameters(path: str) -> list[Json]:
    made = []
    for name, pattern in PARAMETER.findall(path):
        told = PATH_PARAMETERS[name]
        schema = told["schema"] | ({"enum": pattern.split("|")} if pattern else {})
        made.append({"name": name, "in": "path", "required": True, **told, "schema": schema})
    return made


def _query_parameters(kind: Kind | None) -> Iterator[Json]:
    if kind is None:
        return
    made = requests([kind])[kind.__name__]
    for name, found in made["properties"].items():
        schema = _sendable(found)
        told = {"description": schema.pop("description")} if "description" in schema else {}
        yield {"name": name, "in": "query", "required": name in made["required"], **told, "schema": schema}


def _sendable(found: Json) -> Json:
    """A field's schema for a URL: what may be left out is null inside, but nobody can send a null."""
    if "anyOf" not in found:
        return dict(found)
    schema: Json
    [schema] = [each for each in found["anyOf"] if each != {"type": "null"}]
    return schema | {name: value for name, value in found.items() if name != "anyOf" and value is not None}


def _header_parameters(names: Iterable[str]) -> Iterator[Json]:
    for name in names:
        yield {"name": name, "in": "header", **REQUEST_HEADERS[name]}


def _schemas() -> Json:
    said: dict[Kind, None] = {Events: None, problem.Problem: None, Envelope: None}
    heard: dict[Kind, None] = {}
    for operation in OPERATIONS.values():
        for body in (operation.answer, *(each for _, _, each in operation.others)):
            if not isinstance(body, Content):
                said[body] = None
        if operation.body is not None and not isinstance(operation.body, Content):
            heard[operation.body] = None
    made = answers([*said, *catalogue.EVENTS.values()]) | requests(heard) | {"Event": asyncapi.event_schema()}
    made["Events"]["properties"]["items"]["items"] = schema_ref("Event")
    for kind in (*said, *heard):
        if shown := examples.of(kind):
            made[kind.__name__]["examples"] = shown
    return dict(sorted(made.items()))


@cache
def encoded() -> bytes:
    """The document as it is served."""
    from ottoai.web.routes import ROUTES  # which lists get_openapi() below

    return msgspec.json.encode(make(ROUTES))


async def get_openapi(request: web.Request) -> web.Response:
    """The API as an OpenAPI document."""
    return document.respond(request, encoded())

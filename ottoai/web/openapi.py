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
from ottoai.web import asyncapi, document, examples, problem, wording
from ottoai.web.api.events import Events
from ottoai.web.operations import OPERATIONS, Content, Operation
from ottoai.web.schemas import Json, Kind, answers, ref, requests, schema_ref, sentence

PARAMETER: Final = re.compile(r"\{(\w+)(?::((?:[^{}]|\{[^{}]*\})*))?\}")
API: Final = "/api/"
# What every request under /api/ may meet.
OF_API: Final = (errors.InvalidInput, errors.Unauthenticated, errors.RateLimited, errors.StoreUnavailable)
OF_STATUS: Final = {401: ("WWW-Authenticate",), 412: ("ETag",), 429: ("Retry-After",), 503: ("Retry-After",)}
FORM: Final = "application/x-www-form-urlencoded"
PROBLEM: Final = problem.CONTENT_TYPE


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
        "tags": [{"name": name, "description": text} for name, text in wording.TAGS.items()],
        "paths": paths,
        "components": {
            "securitySchemes": wording.SECURITY,
            "headers": {name: {**told, "schema": {"type": "string"}} for name, told in wording.ANSWER_HEADERS.items()},
            "responses": {name: raised[name].document() for name in sorted(raised)},
            "schemas": _schemas(),
        },
    }


def _description() -> str:
    return "\n".join([wording.INTRODUCTION, "", *(f"- {rule}" for rule in wording.RULES)])


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
        told = wording.PATH_PARAMETERS[name]
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
        yield {"name": name, "in": "header", **wording.REQUEST_HEADERS[name]}


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

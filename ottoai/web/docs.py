"""GET /docs: what /openapi.json says, as one page for people. It needs no script and nothing from elsewhere."""

import re
import shlex
from functools import cache
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
from aiohttp import web
from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape

from ottoai.web import changes, document, openapi, wording
from ottoai.web.schemas import Json

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
SECRETS: Final = {
    "bearer": "Authorization: Bearer $TOKEN",
    "devKey": "X-Dev-Key: $DEV_KEY",
}
FORMATS: Final = {"date-time": "time", "date": "date", "uuid": "uuid"}


async def page(request: web.Request) -> web.Response:
    """The page: the same for everybody."""
    response = document.respond(request, _page(), "text/html")
    response.headers.update(HEADERS)
    return response


@cache
def _page() -> bytes:
    environment = Environment(loader=PackageLoader("ottoai.web"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"prose": prose, "slug": slug}
    reader = _Reader(msgspec.json.decode(openapi.encoded()))
    shown = {"openapi": reader.document, "tags": reader.tags(), "schemas": reader.schemas(), "changes": changes}
    told = {"intro": wording.INTRODUCTION, "rules": wording.RULES, "errors": reader.errors()}
    return environment.get_template("docs.html").render(**shown, **told).encode()


def prose(text: str) -> Markup:
    """A sentence with its words in backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped before


def _signature(name: str) -> str:
    return f"{wording.SECURITY[name]['name']}: $SIGNATURE"


def slug(text: str) -> str:
    """A heading as the name of a place on the page."""
    return text.lower().replace(" ", "-")


class _Reader:
    """The document, read for people."""

    def __init__(self, document: Json) -> None:
        self.document = document

    def resolve(self, found: Json) -> Json:
        """What a reference leads to."""
        while "$ref" in found:
            target: Any = self.document
            for part in found["$ref"].removeprefix("#/").split("/"):
                target = target[part]
            found = target
        return found

    def tags(self) -> list[Json]:
        """The operations by tag, in the order of the tags."""
        found: dict[str, list[Json]] = {tag["name"]: [] for tag in self.document["tags"]}
        for path, item in self.document["paths"].items():
            for method, operation in item.items():
                if method != "parameters":
                    told = self._operation(method.upper(), path, operation, item.get("parameters", []))
                    found[operation["tags"][0]].append(told)
        return [{**tag, "operations": found[tag["name"]]} for tag in self.document["tags"] if found[tag["name"]]]

    def _operation(self, method: str, path: str, operation: Json, of_path: list[Json]) -> Json:
        parameters = of_path + operation.get("parameters", [])
        answers, refusals = [], []
        for status, answer in operation["responses"].items():
            told = self.resolve(answer)
            kinds = [*told.get("content", {None: None})]
            if kinds == [openapi.PROBLEM]:
                refusals.append((status, self._types(told)))
            else:
                answers.append(self._answer(status, told))
        return {
            "id": operation["operationId"],
            "method": method,
            "path": path,
            "summary": operation["summary"],
            "description": operation["description"],
            "deprecated": operation.get("deprecated", False),
            "secret": any(operation["security"]),
            "parameters": [self._parameter(each) for each in parameters],
            "body": self._body(operation.get("requestBody", {}).get("content", {})),
            "answers": answers,
            "refusals": refusals,
            "curl": self._curl(method, path, operation, parameters),
        }

    def _body(self, content: Json) -> Json | None:
        for found in content.values():  # every media type carries the same
            schema = found["schema"]
            return {"media": " or ".join(content), "type": self.shown(schema), "example": self.example(schema)}
        return None

    def _parameter(self, found: Json) -> Json:
        return {**found, "type": self.shown(found["schema"]), "more": limits_of(found["schema"])}

    def _answer(self, status: str, told: Json) -> Json:
        headers = sorted(name for name in told.get("headers", {}) if name != "X-Request-Id")
        made: Json = {"status": status, "description": told["description"], "headers": headers}
        for media, content in told.get("content", {}).items():
            if media != openapi.PROBLEM:
                made |= {"media": media, "type": self.shown(content["schema"])}
                made["example"] = self.example(content["schema"])
        return made

    def _types(self, told: Json) -> list[str]:
        schema = told["content"][openapi.PROBLEM]["schema"]
        return [each.rpartition("/")[2] for each in schema["properties"]["type"]["enum"]]

    def errors(self) -> list[Json]:
        """Every type of problem that an operation may answer."""
        found: dict[str, Json] = {}
        for answer in self.document["components"]["responses"].values():
            status = answer["content"][openapi.PROBLEM]["schema"]["properties"]["status"]["const"]
            sentences = re.findall(r"`([a-z-]+)`: (.*?)(?= `[a-z-]+`: |$)", answer["description"])
            found |= {name: {"type": name, "status": status, "meaning": meaning} for name, meaning in sentences}
        return sorted(found.values(), key=lambda each: (each["status"], each["type"]))

    def schemas(self) -> list[Json]:
        """Every named type with its fields."""
        return [self._schema(name, schema) for name, schema in self.document["components"]["schemas"].items()]

    def _schema(self, name: str, schema: Json) -> Json:
        fields = [
            {
                "name": field,
                "type": self.shown(found),
                "more": limits_of(found),
                "required": field in schema.get("required", []),
            }
            for field, found in schema.get("properties", {}).items()
        ]
        known = [(each["title"], each["properties"]["data"]) for each in schema.get("oneOf", []) if "title" in each]
        kinds = [(title, self.shown(data)) for title, data in known]
        return {"name": name, "description": schema.get("description", ""), "fields": fields, "kinds": kinds}

    def shown(self, schema: Json) -> Markup:
        """A type in words."""
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            return Markup('<a href="#schema-{0}">{0}</a>').format(name)
        for many in ("anyOf", "oneOf"):
            if many in schema:
                return Markup(" or ").join(self.shown(each) for each in schema[many])
        if "enum" in schema:
            return Markup(", ").join(Markup("<code>{}</code>").format(each) for each in schema["enum"])
        if schema.get("type") == "array":
            return Markup("list of {}").format(self.shown(schema.get("items", {})))
        return Markup("{}").format(FORMATS.get(schema.get("format", ""), schema.get("type", "anything")))

    def example(self, schema: Json) -> str | None:
        """JSON that shows a type, made of the examples that its parts have."""
        found = self._example(schema)
        return None if found is None else msgspec.json.format(msgspec.json.encode(found), indent=2).decode()

    def _example(self, schema: Json) -> Any:
        schema = self.resolve(schema)
        if "examples" in schema:
            return schema["examples"][0]
        return None

    def _curl(self, method: str, path: str, operation: Json, parameters: list[Json]) -> str:
        """How to ask for it from a terminal: with what is required, as the examples have it."""
        needed = [(each["in"], each["name"], _sample(each)) for each in parameters if each.get("required")]
        for _, name, value in (each for each in needed if each[0] == "path"):
            path = path.replace(f"{{{name}}}", value)
        query = urlencode({name: value for where, name, value in needed if where == "query"})
        words = ["curl", *(["-N"] if "text/event-stream" in str(operation["responses"]) else [])]
        words += [f"-X {method}"] if method not in {"GET", "POST"} else []
        words += [
            f'-H "{SECRETS.get(name) or _signature(name)}"' for names in operation["security"][:1] for name in names
        ]
        words += [f"-H {shlex.quote(f'{name}: {value}')}" for where, name, value in needed if where == "header"]
        for media, content in [*operation.get("requestBody", {}).get("content", {}).items()][:1]:
            example = self._example(content["schema"])
            words.append(f"-H {shlex.quote(f'Content-Type: {media}')}")
            words.append(f"-d {shlex.quote(msgspec.json.encode(example).decode())}" if example else "-d @body")
        words.append(f'"$BASE{path}{"?" * bool(query)}{query}"')
        return " ".join(words)


def _sample(parameter: Json) -> str:
    """A value of a parameter; where only its owner knows one, a variable of the shell."""
    known = [*parameter["schema"].get("examples", []), *parameter["schema"].get("enum", [])]
    return str(known[0]) if known else f"${parameter['name'].upper()}"


def limits_of(schema: Json) -> str:
    """What a type's values are held to, in words."""
    words = {
        "minimum": "at least {}", "maximum": "at most {}", "maxLength": "at most {} characters",
        "maxItems": "at most {} items", "default": "default {}",
    }  # fmt: skip
    found = [words[name].format(_plain(schema[name])) for name in words if schema.get(name) not in (None, [])]
    if "examples" in schema:
        found.append(f"such as {_plain(schema['examples'][0])}")
    return ", ".join(found)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()

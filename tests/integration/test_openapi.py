"""GET /openapi.json: it is sound, complete, and declares what the handlers really use. What is really answered is held
against it in tests/conformance.
"""

from collections.abc import Iterator
from typing import Any

import aiohttp
import jsonschema_rs
import msgspec
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from ottoai.config import Config
from ottoai.errors import InvalidInput
from ottoai.web import changes, inputs, openapi
from ottoai.web.api import writing
from ottoai.web.operations import OPERATIONS, UNDESCRIBED, Content
from ottoai.web.routes import ROUTES
from scripts import generate
from tests.helpers import get

Json = dict[str, Any]
OF_API = [(method, path) for method, path in OPERATIONS if path.startswith("/api/")]


@pytest.fixture
def document() -> Json:
    return msgspec.json.decode(openapi.encoded())


def within(found: object) -> Iterator[Json]:
    """Every object in a document."""
    if isinstance(found, dict):
        yield found
    for each in found.values() if isinstance(found, dict) else found if isinstance(found, list) else ():
        yield from within(each)


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, item in document["paths"].items():
        yield from ((method.upper(), path, each) for method, each in item.items() if method != "parameters")


def resolve(document: Json, ref: str) -> Json:
    found: Any = document
    for part in ref.removeprefix("#/").split("/"):
        found = found[part]
    return found


# The document


def test_it_is_openapi_3_1(document):
    OPENAPI_31_VALIDATOR.validate(document)
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
    with pytest.raises(jsonschema_rs.ValidationError):
        OPENAPI_31_VALIDATOR.validate(document | {"paths": {"calls": {}}})


def test_every_reference_leads_somewhere_and_nothing_is_left_over(document):
    refs = {each["$ref"] for each in within(document) if "$ref" in each}
    assert all(resolve(document, ref) for ref in refs)
    parts = {f"#/components/{kind}/{name}" for kind, those in document["components"].items() for name in those}
    unused = {part for part in parts - refs if "securitySchemes" not in part}
    assert not unused
    schemes = {name for _, _, each in operations(document) for names in each["security"] for name in names}
    assert schemes == set(document["components"]["securitySchemes"])


def test_every_route_is_described_or_is_no_clients_business(document):
    routes = {(method, openapi.plain(path)) for method, path, _ in ROUTES}
    described = {(method, path) for method, path, _ in operations(document)}
    assert described == set(OPERATIONS)
    assert described | UNDESCRIBED == routes, "add it to OPERATIONS in ottoai/web/operations.py"
    assert not described & UNDESCRIBED
    assert not {path for _, path in UNDESCRIBED if path.startswith("/api/")}


def test_operations_are_told_apart_and_told_of(document):
    found = [each for _, _, each in operations(document)]
    ids = [each["operationId"] for each in found]
    assert len(ids) == len(set(ids))
    assert all(id_.isidentifier() and id_[0].islower() for id_ in ids)
    assert all(0 < len(each["summary"]) < 100 for each in found)
    tags = [tag["name"] for tag in document["tags"]]
    assert {tag for each in found for tag in each["tags"]} == set(tags)
    linked = {link["operationId"] for each in within(document) for link in each.get("links", {}).values()}
    assert linked
    assert linked <= set(ids)


def test_everything_under_api_needs_the_token_and_says_how_it_is_refused(document):
    for method, path, operation in operations(document):
        if not path.startswith("/api/"):
            continue
        assert operation["security"] == [{"bearer": []}], (method, path)
        assert {"400", "401", "429", "503"} <= set(operation["responses"]), (method, path)
        if "{id}" in path:
            assert "404" in operation["responses"], (method, path)


def test_every_answer_and_body_has_an_example_that_is_valid(document):
    components = {"components": document["components"]}
    seen = 0
    for name, schema in document["components"]["schemas"].items():
        for example in schema.get("examples", []):
            jsonschema_rs.Draft202012Validator({**schema, **components}, validate_formats=True).validate(example)
            seen += 1
        assert name not in _bodies() or schema["examples"], name
    for response in document["components"]["responses"].values():
        content = response["content"]["application/problem+json"]
        for example in content["examples"].values():
            jsonschema_rs.Draft202012Validator({**content["schema"], **components}).validate(example["value"])
    assert seen > len(OF_API)


def _bodies() -> set[str]:
    kinds = [kind for each in OPERATIONS.values() for kind in (each.answer, each.body)]
    return {kind.__name__ for kind in kinds if kind is not None and not isinstance(kind, Content)}


def test_the_changelog_tells_of_every_operation_for_clients():
    told = generate.current("<!-- generated: api-changelog -->\n<!-- end: api-changelog -->")
    for method, path in OF_API:
        assert f"`{method} {path}`" in told, "add a line to CHANGES in ottoai/web/changes.py"
    assert all(line in told for line in changes.MAY_CHANGE + changes.MAY_NOT_CHANGE)


def test_the_committed_document_is_the_one_that_is_served(repository):
    assert (
        dict(generate.documents())[repository / "docs/openapi.json"] == (repository / "docs/openapi.json").read_text()
    )


# What the handlers use


@pytest.mark.parametrize(("method", "path"), OF_API)
async def test_handlers_read_the_declared_types(base, make_token, monkeypatch, method, path):
    read: dict[str, Any] = {}

    def query(request, kind):
        read["query"] = kind
        return real_query(request, kind)

    async def body(request, kind):
        read["body"] = kind
        raise InvalidInput("body: seen")

    real_query = inputs.query
    monkeypatch.setattr(inputs, "query", query)
    monkeypatch.setattr(writing, "body", body)
    url = base + path.replace("{id}", "11111111-1111-4111-8111-111111111111") + ("?wrong=1" if method == "GET" else "")
    headers = {"Authorization": f"Bearer {make_token(role='manager')}", "If-Match": '"1"'}
    async with aiohttp.ClientSession() as session, session.request(method, url, headers=headers) as response:
        assert response.status in {200, 400, 404}
    declared = {"query": OPERATIONS[method, path].query, "body": OPERATIONS[method, path].body}
    assert read == {what: kind for what, kind in declared.items() if kind is not None}


# As it is served


async def test_it_is_served_with_an_etag(base):
    status, headers, document = await get(base, "/openapi.json")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert headers["Cache-Control"] == "public, max-age=300"
    assert document == msgspec.json.decode(openapi.encoded())
    status, again, body = await get(base, "/openapi.json", **{"If-None-Match": headers["ETag"]})
    assert (status, body, again["ETag"]) == (304, None, headers["ETag"])


async def test_it_tells_nothing_of_the_deployment(base, config: Config):
    text = openapi.encoded().decode()
    for secret in (config.jwt_secret, config.database_url, config.redis_url, base.removeprefix("http://"), "127.0.0.1"):
        assert secret not in text

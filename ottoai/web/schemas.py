"""JSON Schemas of the types that clients speak, as /openapi.json and /asyncapi.json show them: what msgspec says of a
struct, and what it leaves out.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec
from msgspec import inspect

Json = dict[str, Any]
Kind = type[msgspec.Struct]

REF: Final = "#/components/schemas/{name}"


def sentence(kind: object) -> str:
    """A docstring on one line."""
    return " ".join((kind.__doc__ or "").split())


def ref(path: str) -> Json:
    """A reference to another part of the document."""
    return {"$ref": f"#/{path}"}


def schema_ref(name: str) -> Json:
    """A reference to a schema."""
    return {"$ref": REF.format(name=name)}


def answers(kinds: Iterable[Kind]) -> Json:
    """The schemas of what the server says, by name, with those of the structs inside. No field is forbidden: a client
    is to ignore what was added after it was written.
    """
    return {
        kind.__name__: {**schema, "required": list(schema["properties"]) if _whole(kind) else schema["required"]}
        for kind, schema in _schemas(kinds)
    }


def requests(kinds: Iterable[Kind]) -> Json:
    """The schemas of what clients say; whether unknown fields are refused is the struct's own word."""
    closed = {"additionalProperties": False}
    return {
        kind.__name__: schema | (closed if kind.__struct_config__.forbid_unknown_fields else {})
        for kind, schema in _schemas(kinds)
    }


def _schemas(kinds: Iterable[Kind]) -> Iterator[tuple[Kind, Json]]:
    every = dict.fromkeys(each for kind in kinds for each in _within(inspect.type_info(kind)))
    _, made = msgspec.json.schema_components(list(every), ref_template=REF)
    for kind in every:
        found = made[kind.__name__]
        properties = found["properties"]
        for field in msgspec.structs.fields(kind):
            if timed(inspect.type_info(field.type)):
                properties[field.encode_name] = dated(properties[field.encode_name])
        yield (
            kind,
            {
                "title": found["title"],
                "description": sentence(kind),
                "type": "object",
                "properties": properties,
                "required": found["required"],
            },
        )


def _whole(kind: Kind) -> bool:
    """Whether every field is always written."""
    return not kind.__struct_config__.omit_defaults


def _within(kind: inspect.Type) -> Iterator[Kind]:
    """The structs that a type is made of, from the outside in."""
    match kind:
        case inspect.StructType(cls=cls, fields=fields):
            yield cls
            for field in fields:
                yield from _within(field.type)
        case inspect.UnionType(types=types):
            for each in types:
                yield from _within(each)
        case inspect.Metadata(type=inner):
            yield from _within(inner)
        case inspect.ListType(item_type=inner) | inspect.DictType(value_type=inner):
            yield from _within(inner)


def timed(kind: inspect.Type) -> bool:
    """Whether a value of this type may be a time."""
    match kind:
        case inspect.UnionType(types=types):
            return any(timed(each) for each in types)
        case inspect.Metadata(type=inner):
            return timed(inner)
    return isinstance(kind, inspect.DateTimeType)


def dated(made: Json) -> Json:
    """The schema of a time, which msgspec calls a mere string as it might lack a zone; ours never do."""
    if "anyOf" in made:
        return made | {"anyOf": [dated(each) for each in made["anyOf"]]}
    return made | {"format": "date-time"} if made["type"] == "string" else made

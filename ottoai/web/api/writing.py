"""How every change is asked for and answered: its body, the version it is made on, the key that has it done once."""

from hashlib import sha256
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import ETag, web
from aiohttp.helpers import ETAG_ANY

from ottoai.domain.changes import Changed, Versions
from ottoai.domain.requests import Request
from ottoai.errors import InvalidInput, PreconditionRequired, UnsupportedMedia
from ottoai.web import edge, keys

JSON: Final = "application/json"
PATCHES: Final = (JSON, "application/merge-patch+json")
MAX_KEY: Final = 255
TOLD: Final = 200  # characters of what is wrong with a body; it may quote the body

_Body = TypeVar("_Body", bound=msgspec.Struct)


async def body(request: web.Request, kind: type[_Body]) -> _Body:
    """What the request says, as `kind` wants it. Raises UnsupportedMedia; InvalidInput, beginning with the field."""
    accepted = PATCHES if request.method == "PATCH" else (JSON,)
    if request.content_type not in accepted or "Content-Type" not in request.headers:
        named = ", ".join(accepted)
        raise UnsupportedMedia(f"Content-Type: must be {' or '.join(accepted)}", accepted=named)
    try:
        return msgspec.convert(_whole(msgspec.json.decode(await edge.body(request))), kind)
    except msgspec.ValidationError as error:
        raise InvalidInput(told(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"body: is no JSON that can be read ({error})"[:TOLD]) from error


def _whole(value: Any) -> Any:
    """What was read, with 2.0 as the whole number that it is to JSON Schema and to many a language."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {name: _whole(each) for name, each in value.items()}
        case list():
            return [_whole(each) for each in value]
    return value


def told(error: msgspec.ValidationError) -> str:
    """What is wrong with a body, with the field in front: "name: Expected `str`, got `int`"."""
    what, where = str(error), ""
    if " - at `$." in what:
        what, _, where = what.rpartition(" - at `$.")
    unknown = what.partition("unknown field `")[2].rstrip("`")
    if unknown:
        what, where = "is nothing that can be set here", unknown
    return f"{where.rstrip('`')[:TOLD] or 'body'}: {what[:TOLD]}"


def versions(request: web.Request) -> Versions:
    """The versions that the change may be made on, as If-Match says; None: any. Raises PreconditionRequired,
    InvalidInput. A weak tag is never the version that is there (RFC 9110, 13.1.1).
    """
    if "If-Match" not in request.headers:
        raise PreconditionRequired
    tags = request.if_match
    if not tags:
        raise InvalidInput('If-Match: must be an ETag in quotes, such as "3", or *')
    if any(tag.value == ETAG_ANY for tag in tags):
        return None
    return tuple(tag.value for tag in tags if not tag.is_weak and tag.value.isascii())


def once(request: web.Request, said: msgspec.Struct) -> Request:
    """Who asks for what, and with which Idempotency-Key. Raises InvalidInput."""
    given = request.headers.getall("Idempotency-Key", [])
    key = given[0] if given else None
    visible = key is None or (1 <= len(key) <= MAX_KEY and all("!" <= letter <= "~" for letter in key))
    if len(given) > 1 or not visible:
        raise InvalidInput(f"Idempotency-Key: must be one of 1 to {MAX_KEY} visible ASCII characters")
    digest = sha256(f"{request.method} {request.path.lower()}\n".encode() + msgspec.json.encode(said))
    return Request(request[keys.PRINCIPAL].user_id, key, digest.hexdigest())


def changed(request: web.Request, change: Changed) -> web.Response:
    """Tell everyone what a change did, and answer with the row as it is now."""
    request.app[keys.BUS].publish(change.appended)
    response = web.Response(body=change.shape.encode(), content_type=JSON)
    response.etag = ETag(value=str(change.version))
    return response

"""Reading what clients put into URLs: ids, query parameters, cursors."""

import base64
import binascii
import functools
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Annotated, Any, Final, NamedTuple, TypeVar
from uuid import UUID

import msgspec
from aiohttp import web

from ottoai.domain.hours import e164
from ottoai.errors import InvalidInput

PAGE_SIZE: Final = 50
MAX_PAGE_SIZE: Final = 200
MAX_DIGITS: Final = 10  # of a number
MAX_PHONE: Final = 40  # characters; more than any way to write one takes
MAX_CURSOR: Final = 200  # characters; ours have about 100

Moment = Annotated[datetime, msgspec.Meta(tz=True)]  # without its zone a time would be somebody's guess
Prefix = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
Phone = Annotated[str, msgspec.Meta(max_length=MAX_PHONE, extra_json_schema={"format": "phone"})]

_Query = TypeVar("_Query", bound=msgspec.Struct)


class PageQuery(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What every list can be asked: how many items, and from where on. Subclasses add the filters."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE_SIZE, description="Most items on the page.")] = PAGE_SIZE
    cursor: (
        Annotated[
            str,
            msgspec.Meta(max_length=MAX_CURSOR, description="The `next_cursor` of the page before, of the same list."),
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET


class Place(NamedTuple):
    """Where a page ended: the last row's time and id."""

    at: datetime
    row_id: str


def is_uuid(text: str) -> bool:
    """Whether PostgreSQL would take this as a uuid, in its usual form."""
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


def query(request: web.Request, kind: type[_Query]) -> _Query:
    """The query parameters of the request. Raises InvalidInput, naming the one that is wrong, unknown or repeated."""
    given = request.query
    values: dict[str, Any] = dict(given)
    literals = _literals(kind)
    for name in values:
        if literals.get(name) is list:  # as often as there are things to name
            values[name] = given.getall(name)
        elif len(given.getall(name)) > 1:
            raise InvalidInput(f"{name}: was given more than once")
    if not values.keys() <= set(kind.__struct_fields__):
        unknown = min(values.keys() - set(kind.__struct_fields__))
        raise InvalidInput(f"{unknown}: is no parameter here; there are {', '.join(kind.__struct_fields__)}")
    # Not strict=False, which would also take 1e1 for a number, 123 for a time and null for nothing.
    for name, literal in literals.items():
        if name in values:
            values[name] = literal(values[name])
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise InvalidInput(named(error)) from None


def named(error: msgspec.ValidationError) -> str:
    """The error of msgspec in our form: the name of the field before what is wrong with it."""
    what, _, path = str(error).partition(" - at `$")
    name = path.strip(".`")
    return f"{name}: {what[:1].lower()}{what[1:]}" if name else what


@functools.cache
def _literals(kind: type[msgspec.Struct]) -> Mapping[str, Callable[[Any], Any]]:
    """The parameters that are no text, with what makes of a text what it stands for."""
    found: dict[str, Callable[[Any], Any]] = {}
    for field in msgspec.structs.fields(kind):
        told = msgspec.inspect.type_info(field.type)
        match told.type if isinstance(told, msgspec.inspect.Metadata) else told:
            case msgspec.inspect.IntType():
                found[field.name] = _number
            case msgspec.inspect.BoolType():
                found[field.name] = _boolean
            case msgspec.inspect.ListType():
                found[field.name] = list
    return found


def _number(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < MAX_DIGITS else text


def _boolean(text: str) -> bool | str:
    return text == "true" if text in {"true", "false"} else text


def phone(text: str) -> str:
    """A phone number in any form, in E.164. Raises InvalidInput for what is none."""
    number = e164(text)
    if number is None:
        raise InvalidInput("phone: is no phone number such as +12125550123")
    return number


def place(cursor: str | msgspec.UnsetType, of: bytes) -> Place | None:
    """Where the last page ended. `of`: what the list is; a cursor of another is refused. Raises InvalidInput."""
    if not cursor:
        return None
    try:
        mark, moment, row_id = base64.urlsafe_b64decode(cursor.encode()).decode().split("|")
        at = datetime.fromisoformat(moment).astimezone(UTC)
        if not is_uuid(row_id):
            raise ValueError
    except (ValueError, OverflowError, binascii.Error):
        raise InvalidInput("cursor: must be a next_cursor that a page before gave") from None
    if mark != _mark(of):
        raise InvalidInput("cursor: is of another list, or of other filters than these")
    return Place(at, row_id)


def cursor_of(at: datetime, row_id: str, of: bytes) -> str:
    """The cursor of the page after the row in this place."""
    return base64.urlsafe_b64encode(f"{_mark(of)}|{at.isoformat()}|{row_id}".encode()).decode()


def _mark(of: bytes) -> str:
    return blake2b(of, digest_size=4).hexdigest()


def filters(asked: PageQuery) -> Mapping[str, Any]:
    """What is asked besides the place and the size of the page; None for a filter that was not given."""
    return {
        name: _stored(value)
        for name, value in msgspec.structs.asdict(asked).items()
        if name not in PageQuery.__struct_fields__
    }


def _stored(value: object) -> object:
    """A filter's value as the database compares it."""
    match value:
        case msgspec.UNSET:
            return None
        case UUID():
            return str(value)
        case datetime():
            try:
                return value.astimezone(UTC)  # PostgreSQL knows no offsets of more than 16 hours
            except OverflowError:  # at either end of time, where the hours do not matter
                return value.replace(tzinfo=UTC)
    return value

"""Reading the fields of a delivery: what every provider's module needs for it, whatever the fields are called."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import msgspec

from ottoai.errors import InvalidInput

# What is told cannot have happened after it was told; a clock may be this much off.
CLOCK_SKEW: Final = timedelta(minutes=5)
EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)

MAX_ID: Final = 100  # ids are short; a longer one is not an id
MAX_WORDS: Final = 500  # of a name or a source
MAX_TEXT: Final = 10_000  # of a text message; carriers take a sixth of that

Shape = TypeVar("Shape", bound=msgspec.Struct)


def read(told: Mapping[str, Any], shape: type[Shape], *, strict: bool = False) -> Shape:
    """The fields that `shape` names. Raises InvalidInput naming the one that is missing or of the wrong type."""
    try:
        return msgspec.convert(told, shape, strict=strict)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        raise InvalidInput(f"{where.rstrip('`') or 'body'}: {what}") from error


def checked_id(name: str, value: str) -> str:
    """An id as it can be stored and shown. Raises InvalidInput."""
    if not value.isprintable():
        raise InvalidInput(f"{name}: holds a character that cannot be printed")
    if len(value) > MAX_ID:
        raise InvalidInput(f"{name}: longer than {MAX_ID} characters")
    return value


def believed(moment: datetime | None, received_at: datetime) -> datetime | None:
    """The moment in UTC, which is also what is meant when no zone is told; None when it cannot be true."""
    try:
        moment = moment and (moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC))
    except OverflowError:
        return None
    return moment if moment and EARLIEST < moment < received_at + CLOCK_SKEW else None


def plain(value: str | None, limit: int = MAX_WORDS) -> str | None:
    """Text that PostgreSQL can hold, without the blanks around it; None when nothing is left."""
    return (value or "").replace("\x00", "").strip()[:limit] or None

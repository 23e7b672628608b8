"""What is kept of a job's failure: which error, and where it came up. Nothing of what the job was about.

Other people's messages may quote a tenant's data (a key, a phone, a row), so of their errors only types and places are
kept; places are files, functions and lines of source, which hold none. So there is nothing to erase in it.
"""

import sys
import traceback
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from ottoai.domain.outbox import Failure
from ottoai.errors import OttoError

ROOT: Final = Path(__file__).resolve().parents[1]
FRAMES: Final = 40  # of each error, the last ones: a recursion has a thousand
CHAIN: Final = 10  # errors that led to one another, or that were raised together
MOST: Final = 8 * 1024  # characters; the last ones, where it happened
LINE: Final = 200  # characters of a line of source


def failure(error: BaseException) -> Failure:
    """What the outbox keeps of an error."""
    return Failure(described(error), traced(error))


def described(error: BaseException) -> str:
    """An error in a line: in its own words where they are ours, else where it came up."""
    if isinstance(error, OttoError):
        return _named(error)
    frames = traceback.extract_tb(error.__traceback__)
    return f"{_named(error)} at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else _named(error)


def traced(error: BaseException) -> str:
    """The frames that led to an error, last call last, after those of the errors that caused it."""
    text = "\n\n".join(["\n".join([*_frames(each), _named(each)]) for each in reversed(list(_chain(error, set())))])
    return text if len(text) <= MOST else "…" + text[1 - MOST :]


def _named(error: BaseException) -> str:
    name = type(error).__qualname__
    return f"{name}: {error.detail}" if isinstance(error, OttoError) else name


def _frames(error: BaseException) -> Iterator[str]:
    for frame in traceback.extract_tb(error.__traceback__, limit=-FRAMES):
        yield f"  {_relative(frame.filename)}:{frame.lineno} in {frame.name}"
        if frame.line:
            yield f"    {frame.line[:LINE]}"


def _chain(error: BaseException, seen: set[int]) -> Iterator[BaseException]:
    """An error and those behind it, the last first."""
    if id(error) in seen or len(seen) >= CHAIN:
        return
    seen.add(id(error))
    yield error
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _chain(each, seen)
    behind = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if behind is not None:
        yield from _chain(behind, seen)


@cache
def _relative(filename: str) -> str:
    """A file as it is called within this project, or within what Python finds its modules in."""
    path = Path(filename)
    roots = [ROOT, *(Path(each) for each in sys.path if each)]
    found = [path.relative_to(root).as_posix() for root in roots if path.is_relative_to(root)]
    return min(found, key=len, default=path.name)

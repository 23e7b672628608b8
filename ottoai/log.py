"""Logs: one JSON line on stdout per record, of this software and of every library in it.

A line is never lost, split, forged or endless: what cannot be encoded is described, fields that carry a meaning cannot
be overwritten by `extra`, and everything has a bound. Phones, tokens and keys are taken out (`redact`). Which lines
there are is decided where they are written; this file only says how they look. For Python's own logging module.
"""

import json
import logging
import math
import re
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from datetime import UTC, date, datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from pythonjsonlogger.core import RESERVED_ATTRS, BaseJsonFormatter

from ottoai.config import Config

CONTEXT_FIELDS: Final = frozenset({"request_id", "trace_id", "tenant_id", "user_id", "connection_id", "job_id"})
OWN_FIELDS: Final = frozenset({"timestamp", "level", "logger", "message", "service", "exception", "stack"})

# Container runtimes and log routers cut lines at 16 KiB: half a JSON object is no line at all.
MAX_LINE: Final = 16_000
MAX_MESSAGE: Final = 4_000
MAX_EXCEPTION: Final = 6_000  # of the end: there stands what happened
MAX_TEXT: Final = 2_000
MAX_NAME: Final = 100
MAX_DEPTH: Final = 5
BUDGETS: Final = (12_000, 900)  # characters of all values; the second fits MAX_LINE even if each is escaped to 12 bytes

SECRET_NAMES: Final = frozenset(
    {"access_key", "api_key", "authorization", "cookie", "jwt", "password", "phone", "secret", "token"}
)
_SECRETS: Final = (  # a substring that must be there (tested first: it is cheap), the pattern, what replaces it
    ("bearer", re.compile(r"(\bbearer\s+)[^\s\"',;]+", re.IGNORECASE), r"\1[redacted]"),
    ("eyj", re.compile(r"eyJ[\w-]{4,}\.[\w-]{4,}(?:\.[\w-]*)?"), "[jwt]"),
    (
        "=",
        re.compile(
            r"\b((?:access_key|access_token|api_key|token|password|secret)=)(?:\"[^\"]*\"?|[^\s&\"',;]+)", re.IGNORECASE
        ),
        r"\1[redacted]",
    ),
    ("://", re.compile(r"(://[^\s/@:\"']*:)[^\s\"']*@"), r"\1[redacted]@"),
    ("+", re.compile(r"\+\d{7,}"), "[phone]"),
    ("%2b", re.compile(r"%2B\d{7,}", re.IGNORECASE), "[phone]"),
)

_context: ContextVar[Mapping[str, str]] = ContextVar("log_context", default=MappingProxyType({}))


@contextmanager
def bind(**fields: str) -> Iterator[None]:
    """Put fields on every line written inside, by this task or thread and the tasks it starts. "" binds nothing.

    TypeError for a name that is not in CONTEXT_FIELDS.
    """
    token = bind_for_good(**fields)
    try:
        yield
    finally:
        _context.reset(token)


def bind_for_good(**fields: str) -> Token[Mapping[str, str]]:
    """The same for the rest of this task, whose context ends with it."""
    if not fields.keys() <= CONTEXT_FIELDS:
        raise TypeError(f"the context has the fields {sorted(CONTEXT_FIELDS)}, not {sorted(fields)}")
    return _context.set({**_context.get(), **{name: value for name, value in fields.items() if value}})


def setup(config: Config, service: str) -> None:
    """Send every record of this process to stdout as JSON. May be called again."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.log_level)
    for known in logging.root.manager.loggerDict.values():
        if isinstance(known, logging.Logger):
            known.handlers.clear()
            known.propagate = True
    logging.getLogger("aiohttp.access").disabled = True  # our middleware logs requests, without their query strings
    logging.captureWarnings(True)
    logging.Logger.makeRecord = _make_record  # type: ignore[method-assign]
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda args: _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def redact(text: str) -> str:
    """The text without phone numbers, tokens, keys and passwords of URLs."""
    lowered = text.lower()
    for needle, pattern, replacement in _SECRETS:
        if needle in lowered:
            text = pattern.sub(replacement, text)
    return text


def visible(text: str) -> str:
    """The text as a terminal may show it: what would move its cursor or change its title stands there in letters."""
    return text.translate(_CONTROLS)


class JsonLines(BaseJsonFormatter):
    """One record as one line of JSON in ASCII, at most MAX_LINE characters long."""

    def __init__(self, service: str) -> None:
        super().__init__(None)
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The line. Never raises: a record that cannot be formatted is described."""
        try:
            return super().format(record)
        except Exception as error:  # noqa: BLE001 - the last edge there is: raising here would lose the line
            text = f"{_shown(record.msg)} [not formatted: {type(error).__name__}]"
            return self._line(self._own(record, text), self._extras(record), _caught(record))

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Gather what the line will hold; `message_dict` has the exception, and a message that was a dict."""
        trace = message_dict.pop("exc_info", None)
        stack = message_dict.pop("stack_info", None)
        log_data["own"] = self._own(record, record.message)
        log_data["extras"] = {**message_dict, **self._extras(record)}
        log_data["caught"] = {"exception": trace, "stack": stack}

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        """Encode what `add_fields` gathered."""
        return self._line(log_data["own"], log_data["extras"], log_data["caught"])

    def _own(self, record: logging.LogRecord, message: str) -> dict[str, str]:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        return {
            "timestamp": moment.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": message,
            "service": self._service,
        }

    def _extras(self, record: logging.LogRecord) -> dict[Any, Any]:
        given = {key: value for key, value in record.__dict__.items() if key not in _RECORD_FIELDS}
        return {**_context.get(), **given} if given else dict(_context.get())

    def _line(self, own: Mapping[str, str], extras: Mapping[Any, Any], caught: Mapping[str, Any]) -> str:
        line = ""
        for budget in BUDGETS:
            cleaner = _Cleaner(budget)
            fields = dict(own)
            fields["logger"] = cleaner.name(own["logger"])
            fields["message"] = cleaner.text(own["message"], MAX_MESSAGE)
            fields.update((name, cleaner.tail(text)) for name, text in caught.items() if text)
            line = json.dumps({**fields, **cleaner.fields(extras)})
            if len(line) <= MAX_LINE:
                break
        return line


class _Cleaner:
    """Turns any value into one that JSON can say, redacted, until its budget of characters is spent."""

    def __init__(self, budget: int) -> None:
        self._left = budget

    def fields(self, extras: Mapping[Any, Any]) -> dict[str, Any]:
        cleaned = {}
        for key, value in extras.items():
            name = self.name(key)
            cleaned[f"extra_{name}" if name in OWN_FIELDS else name] = self.value(value, name, MAX_DEPTH)
            if self._left <= 0:
                break
        return cleaned

    def value(self, value: Any, name: str, depth: int) -> Any:
        self._left -= 8  # quotes, comma, and for empty ones too: a million of nothing is also endless
        if value is None or value is True or value is False:
            return value
        if name in SECRET_NAMES:
            return "[redacted]"
        if self._left <= 0:
            return "[cut]"
        if type(value) is int and abs(value) < 1 << 63:
            return value
        if type(value) is float and math.isfinite(value):
            return value
        if type(value) is str:
            return self.text(value, MAX_TEXT)
        if depth and isinstance(value, dict):
            return {self.name(k): self.value(v, _shown(k), depth - 1) for k, v in self._some(value.items())}
        if depth and isinstance(value, list | tuple | set | frozenset):
            return [self.value(item, "", depth - 1) for item in self._some(value)]
        return self.text(_shown(value), MAX_TEXT)

    def name(self, key: Any) -> str:
        name = _name(key if type(key) is str and len(key) <= MAX_NAME else _shown(key)[:MAX_NAME])
        self._left -= len(name)
        return name

    def text(self, text: str, limit: int) -> str:
        limit = max(0, min(limit, self._left))
        clean = _encodable(redact(text if len(text) <= limit else text[: 2 * limit + 64]))
        self._left -= min(len(clean), limit)
        return clean if len(clean) <= limit else f"{clean[:limit]}[cut]"

    def tail(self, text: str) -> str:
        limit = max(0, min(MAX_EXCEPTION, self._left))
        clean = _encodable(redact(str(text)[-2 * limit - 64 :]))
        self._left -= min(len(clean), limit)
        return clean if len(clean) <= limit else f"[cut]{clean[len(clean) - limit :]}"

    def _some(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            yield item
            if self._left <= 0:
                return


@lru_cache(1024)
def _name(key: str) -> str:
    return _encodable(redact(key))


def _encodable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _shown(value: Any) -> str:
    try:
        if isinstance(value, datetime | date):
            return value.isoformat()
        if isinstance(value, BaseException):  # not repr(): that of redis-py's errors leaves their text out
            return f"{type(value).__name__}: {value}".removesuffix(": ")
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    except Exception as error:  # noqa: BLE001 - __str__ of anything at all
        return f"<{type(value).__name__}: {type(error).__name__} when shown>"


_CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
_RECORD_FIELDS: Final = frozenset(RESERVED_ATTRS) | {"taskName"}
_TAKEN: Final = _RECORD_FIELDS | OWN_FIELDS
_standard_make_record = logging.Logger.makeRecord


def _make_record(self: logging.Logger, *args: Any, **kwargs: Any) -> logging.LogRecord:
    """As the standard one, which raises KeyError for an `extra` named like its own fields: ours renames it."""
    values = list(args)
    if len(values) > 8 and values[8]:
        values[8] = {f"extra_{k}" if k in _TAKEN else k: v for k, v in values[8].items()}
    if extra := kwargs.get("extra"):
        kwargs["extra"] = {f"extra_{k}" if k in _TAKEN else k: v for k, v in extra.items()}
    return _standard_make_record(self, *values, **kwargs)


def _caught(record: logging.LogRecord) -> dict[str, str]:
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    return {"exception": _shown(error)} if error else {}


def _log_uncaught(kind: type[BaseException], error: BaseException | None, trace: Any) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error or kind(), trace)
    else:
        logging.getLogger("ottoai").critical("Uncaught exception", exc_info=(kind, error or kind(), trace))

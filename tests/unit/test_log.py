"""What the log promises: no record is lost, split, forged or endless, and no secret is told."""

import asyncio
import io
import json
import logging
import sys
import threading
import uuid
import warnings
from datetime import UTC, datetime

import pytest
import redis.exceptions
from hypothesis import given
from hypothesis import strategies as st

from ottoai import log
from ottoai.config import Config
from tests.conftest import SECRET_KEY

CONFIG = Config.load(
    {
        "ENVIRONMENT": "test",
        "DATABASE_URL": "postgresql://localhost/x",
        "REDIS_URL": "redis://localhost",
        "JWT_SECRET": "x" * 32,
        "SECRET_KEYS": SECRET_KEY,
    }
)
OWN = {"timestamp", "level", "logger", "message", "service"}


class Lines:
    """What a process would have written, read back line by line."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    def setup(self, monkeypatch: pytest.MonkeyPatch, service: str) -> None:
        monkeypatch.setattr(sys, "stdout", self.stream)
        log.setup(CONFIG, service)

    def all(self) -> list[dict]:
        text = self.stream.getvalue()
        assert text.isascii()
        assert all(len(line) <= log.MAX_LINE for line in text.split("\n"))
        lines = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
        assert all(line.keys() >= OWN for line in lines)
        return lines

    def one(self) -> dict:
        (line,) = self.all()
        return line


@pytest.fixture
def lines(monkeypatch):
    """Logging as `setup` leaves it, put back afterwards."""
    root = logging.getLogger()
    handlers, level, make = root.handlers[:], root.level, logging.Logger.makeRecord
    hooks = sys.excepthook, threading.excepthook
    written = Lines()
    written.setup(monkeypatch, "test-service")
    yield written
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.Logger.makeRecord = make
    sys.excepthook, threading.excepthook = hooks
    logging.getLogger("aiohttp.access").disabled = False


def written(level: str = "INFO", message: str = "hello", *args: object, **extra: object) -> dict:
    """One record through the formatter alone, for many examples."""
    record = logging.LogRecord("l", logging.INFO, "f", 1, message, args, None)
    record.__dict__.update(extra)
    line = log.JsonLines("s").format(record)
    assert "\n" not in line
    assert line.isascii()
    assert len(line) <= log.MAX_LINE
    return json.loads(line, parse_constant=pytest.fail)


def test_a_line_has_the_fields_of_the_guide(lines):
    with log.bind(tenant_id="tenant-1", trace_id="abc"):
        logging.getLogger("ottoai.x").info("Hello %s", "you", extra={"reason": "heartbeat_timeout", "count": 3})
    line = lines.one()
    moment = line.pop("timestamp")
    assert moment.endswith("Z")
    assert abs((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()) < 5
    assert len(moment) == len("2026-11-02T10:00:00.000Z")
    assert line == {
        "level": "INFO",
        "logger": "ottoai.x",
        "message": "Hello you",
        "service": "test-service",
        "tenant_id": "tenant-1",
        "trace_id": "abc",
        "reason": "heartbeat_timeout",
        "count": 3,
    }


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (redis.exceptions.ResponseError("LOADING at redis://u:secret@h"), "ResponseError: LOADING at redis://u:[redacted]@h"),
        (TimeoutError(), "TimeoutError"),
        (ConnectionRefusedError(111, "refused"), "ConnectionRefusedError: [Errno 111] refused"),
    ],
)  # fmt: skip
def test_an_error_is_told_with_its_text(error, told):
    assert written(error=error)["error"] == told


def test_every_library_speaks_json(lines, monkeypatch):
    stray = logging.getLogger("rq.worker")
    stray.addHandler(logging.StreamHandler(io.StringIO()))
    stray.propagate = False
    lines.setup(monkeypatch, "again")
    for name in ("rq.worker", "rq_scheduler.scheduler", "aiohttp.server", "asyncio"):
        logging.getLogger(name).warning("from %s", name)
    logging.getLogger("aiohttp.access").info("GET /?token=x")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert [line["logger"] for line in lines.all()] == [
        "rq.worker", "rq_scheduler.scheduler", "aiohttp.server", "asyncio", "py.warnings",
    ]  # fmt: skip


def test_fields_with_a_meaning_cannot_be_forged(lines):
    forged = dict.fromkeys(
        ["level", "timestamp", "message", "name", "logger", "service", "msg", "args", "exception"], "x"
    )
    logging.getLogger("true").info("true", extra=forged)
    logging.getLogger("true").info({"level": "FATAL", "a": 1})
    first, second = lines.all()
    assert (first["level"], first["message"], first["logger"], first["service"]) == (
        "INFO",
        "true",
        "true",
        "test-service",
    )
    assert first["extra_level"] == first["extra_message"] == first["extra_name"] == "x"
    assert (second["level"], second["extra_level"], second["a"]) == ("INFO", "FATAL", 1)


def test_a_message_whose_arguments_do_not_fit_is_not_lost(lines, monkeypatch):
    lines.setup(monkeypatch, "without pytest's own handlers, which would raise")
    logging.getLogger("x").info("%d calls of %s", "many", extra={"tenant_id": "t"})
    line = lines.one()
    assert line["message"].startswith("%d calls of %s")
    assert line["tenant_id"] == "t"


def test_exceptions_are_a_field(lines):
    try:
        raise ValueError("to +14155550100 over redis://user:pw@host/0")
    except ValueError:
        logging.getLogger("x").exception("Failed")
    line = lines.one()
    assert line["level"] == "ERROR"
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: to [phone] over redis://user:[redacted]@host/0")


def test_of_a_long_exception_the_end_is_kept():
    try:
        raise ValueError("x" * 100_000 + "the cause")
    except ValueError:
        record = logging.LogRecord("l", logging.ERROR, "f", 1, "m", None, sys.exc_info())
    line = json.loads(log.JsonLines("s").format(record))
    assert line["exception"].startswith("[cut]")
    assert line["exception"].endswith("the cause")


def test_an_uncaught_exception_is_a_line(lines):
    def fail() -> None:
        raise ValueError("out")

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    line = lines.one()
    assert (line["level"], line["message"]) == ("CRITICAL", "Uncaught exception")
    assert "ValueError: out" in line["exception"]


class Unshowable:
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_values_that_json_cannot_say_are_described():
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    loop: list[object] = []
    loop.append(loop)
    given = {
        "nan": float("nan"), "inf": float("inf"), "huge": 10**30, "bytes": b"\xffa", "set": {1}, "at": moment,
        "surrogate": "\ud800", "none": None, "yes": True, "odd": Unshowable(), "loop": loop, "error": ValueError("v"),
    }  # fmt: skip
    line = written(**given)
    assert line["nan"] == "nan"
    assert line["inf"] == "inf"
    assert line["huge"] == str(10**30)
    assert line["bytes"] == "\ufffda"
    assert line["set"] == [1]
    assert line["at"] == "2026-01-01T00:00:00+00:00"
    assert line["surrogate"] == "?"
    assert line["none"] is None
    assert line["yes"] is True
    assert "Unshowable" in line["odd"]
    assert line["error"] == "ValueError: v"


@pytest.mark.parametrize(
    "value",
    ["x" * 1_000_000, "\U0001f600" * 50_000, "\0" * 50_000, ["y" * 100] * 100_000, {str(n): n for n in range(10**5)}],
)
def test_nothing_makes_an_endless_line(value):
    assert written(message="kept", big=value)["message"] == "kept"
    written(message="a" + str(value)[:100_000])
    written(**{f"k{n}": value for n in range(100)})


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.datetimes() | st.uuids(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@given(st.text(), st.dictionaries(st.text(), anything, max_size=6))
def test_any_message_and_any_extra_make_one_line(message, extra):
    extra = {
        key: value
        for key, value in extra.items()
        if key not in logging.LogRecord("", 0, "", 0, "", None, None).__dict__
    }
    line = written(message=message, **{k: v for k, v in extra.items() if k not in ("level", "message")})
    assert line["level"] == "INFO"
    assert line["service"] == "s"


HOSTILE = st.one_of(
    st.sampled_from(sorted({*log._TAKEN, *log.CONTEXT_FIELDS, "level\n", "\x1b[31mlevel", "\u2028level", ""})),
    st.text(),
)
VALUES = st.sampled_from(
    ["x\ny", '"}\n{"level": "CRITICAL"', "\x1b[2J", "\u2028", "\ud800", float("nan"), float("-inf"), 10**400, b"\xff"]
)


@given(st.text() | VALUES.map(str), st.dictionaries(HOSTILE, VALUES | anything, max_size=8))
def test_no_field_of_any_caller_forges_ours(message, extra):
    """Through the logger itself, which is where a name that is taken would raise or overwrite."""
    made = log._make_record(
        logging.getLogger("l"), "l", logging.INFO, "f", 1, message, (), None, "function", extra, None
    )
    text = log.JsonLines("s").format(made)
    assert text.isascii()
    assert text.isprintable()
    assert len(text) <= log.MAX_LINE
    line = json.loads(text, parse_constant=pytest.fail)
    assert (line["level"], line["logger"], line["service"]) == ("INFO", "l", "s")
    assert line["message"].encode("utf-8", "replace") == log.redact(message).encode("utf-8", "replace")
    names = {log._name(key[: log.MAX_NAME]) for key in extra}
    assert line.keys() - OWN <= names | {f"extra_{name}" for name in names}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("call +14155550100 now", "call [phone] now"),
        ("From=%2B14155550100&x=1", "From=[phone]&x=1"),
        ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer [redacted]"),
        ("bearer.eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-_1", "bearer.[jwt]"),
        ("https://x/rec?access_key=s3cret&a=1", "https://x/rec?access_key=[redacted]&a=1"),
        ('Token token="abc def"', "Token token=[redacted]"),
        ("postgresql://me:p@ss/word@db:5432/x", "postgresql://me:[redacted]@db:5432/x"),
        ("redis://:pw@h", "redis://:[redacted]@h"),
    ],
)
def test_secrets_are_taken_out(text, told):
    assert log.redact(text) == told
    line = written(message=text, extra_text=text, deep={"a": [text]})
    assert (line["message"], line["extra_text"], line["deep"]) == (told, told, {"a": [told]})


@pytest.mark.parametrize("name", sorted(log.SECRET_NAMES))
def test_fields_with_a_secret_name_are_not_told(name):
    assert written(**{name: "4155550100"})[name] == "[redacted]"


@given(st.uuids(), st.datetimes(timezones=st.timezones()), st.integers(0, 2**128 - 1), st.floats())
def test_ids_and_times_are_left_alone(unique, moment, trace, number):
    for text in (
        str(unique),
        unique.hex,
        moment.isoformat(),
        f"{trace:032x}",
        f"00-{trace:032x}-{trace % 2**64:016x}-01",
    ):
        assert log.redact(text) == text
    assert log.redact("http://127.0.0.1:8080/api/calls") == "http://127.0.0.1:8080/api/calls"
    assert written(n=number)["n"] is not None


def test_the_context_ends_where_it_was_bound(lines):
    logger = logging.getLogger("x")
    with log.bind(request_id="r", tenant_id="outer"):
        with log.bind(tenant_id="inner", user_id=""):
            logger.info("1", extra={"request_id": "explicit"})
        logger.info("2")
    logger.info("3")
    first, second, third = lines.all()
    assert (first["tenant_id"], first["request_id"]) == ("inner", "explicit")
    assert "user_id" not in first
    assert (second["tenant_id"], second["request_id"]) == ("outer", "r")
    assert not third.keys() & log.CONTEXT_FIELDS
    with pytest.raises(TypeError), log.bind(phone="x"):
        pass


async def test_tasks_do_not_mix_their_contexts(lines):
    async def one(name: str) -> None:
        with log.bind(job_id=name):
            await asyncio.sleep(0)
            await asyncio.to_thread(logging.getLogger(name).info, "m")

    await asyncio.gather(*(one(str(uuid.uuid4())) for _ in range(5)))
    assert all(line["job_id"] == line["logger"] for line in lines.all())

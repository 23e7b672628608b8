"""Writes what comes from the code: parts of pages in docs, between their markers, docs/openapi.json, monitoring/,
and the charts of what was measured.
`--check` only tells what is stale.

    python -m scripts.generate [--check]

A part begins with `<!-- generated: NAME -->` and ends with `<!-- end: NAME -->`; what stands around it is written by
hand and left alone.
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Final, get_args

import msgspec
from msgspec import inspect

from ottoai import config, errors, metrics
from ottoai.client import BACKOFF
from ottoai.config import Config
from ottoai.domain import catalogue
from ottoai.errors import OttoError
from ottoai.realtime.messages import CLOSES, Reaction, ServerOut
from ottoai.web import changes, openapi
from ottoai.web.asyncapi import FROM_CLIENT, REACTIONS, STREAM_ONLY, TO_CLIENT, WHEN, tag_of
from ottoai.web.limits import Limit, limits
from ottoai.web.schemas import sentence
from ottoai.webhooks import callrail, twilio
from scripts import dashboard, figures, rescue_docs, rule_tests, rules
from scripts.bench import pages

DOCS: Final = Path(__file__).resolve().parents[1] / "docs"
MONITORING: Final = DOCS.parent / "monitoring"
FILES: Final = (
    "API_CHANGELOG.md",
    "CONFIGURATION.md",
    "EVENTS.md",
    "METRICS.md",
    "OPERATIONS.md",
    "PERFORMANCE.md",
    "PROTOCOL.md",
    "RESCUE.md",
    "SCALING.md",
    "WEBHOOKS.md",
)
PART: Final = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end: \2 -->)", re.DOTALL)

PLAIN: Final[dict[type[inspect.Type], str]] = {
    inspect.NoneType: "null",
    inspect.DateTimeType: "time (RFC 3339)",
    inspect.DateType: "date",
    inspect.FloatType: "number",
    inspect.IntType: "integer",
    inspect.BoolType: "boolean",
    inspect.StrType: "text",
    inspect.RawType: "object",
}


class Stale(Exception):
    """The docs and the code do not fit together."""


def shown(kind: inspect.Type) -> str:
    """A type in words that fit a table."""
    match kind:
        case inspect.Metadata(type=inner):
            return shown(inner)
        case inspect.UnionType(types=types):
            return " or ".join(sorted((shown(each) for each in types), key=lambda word: word == "null"))
        case inspect.LiteralType(values=values):
            return " or ".join(f"`{value}`" for value in values)
    if type(kind) in PLAIN:
        return PLAIN[type(kind)]
    raise Stale(f"no words for the type {kind}")


def struct(kind: type[msgspec.Struct]) -> inspect.StructType:
    """A struct with its fields."""
    found = inspect.type_info(kind)
    if not isinstance(found, inspect.StructType):
        raise Stale(f"{kind} is no struct")
    return found


def rows(header: str, lines: Iterator[str] | list[str]) -> str:
    """A Markdown table."""
    return "\n".join([header, re.sub(r"[^|]+", "---", header), *lines]) + "\n"


def events() -> str:
    """Every event with its data type and when it happens."""
    if WHEN.keys() != catalogue.EVENTS.keys():
        raise Stale(f"WHEN in ottoai/web/asyncapi.py and the catalogue differ: {WHEN.keys() ^ catalogue.EVENTS.keys()}")
    return rows(
        "| Event | Data | When |",
        [f"| `{name}` | [{kind.__name__}](#{kind.__name__.lower()}) | {WHEN[name]} |"
         for name, kind in catalogue.EVENTS.items()],
    )  # fmt: skip


def event_data() -> str:
    """The fields of every data type."""
    parts = []
    for kind in dict.fromkeys(catalogue.EVENTS.values()):
        fields = [f"| `{field.encode_name}` | {shown(field.type)} |" for field in struct(kind).fields]
        parts.append(f"### {kind.__name__}\n\n{sentence(kind)}\n\n{rows('| Field | Type |', fields)}")
    return "\n".join(parts)


def protocol_messages(kinds: Iterable[type[msgspec.Struct]]) -> str:
    """One section a message: what it is for, and its fields."""
    parts = []
    for kind in kinds:
        text = f"#### `{tag_of(kind)}`\n\n{sentence(kind)}\n"
        if lines := [field_row(kind, field) for field in struct(kind).fields]:
            text += "\n" + rows("| Field | Type | Present |", lines)
        parts.append(text)
    return "\n".join(parts)


def field_row(kind: type[msgspec.Struct], field: inspect.Field) -> str:
    """A field and whether it is there: the server writes all but those that say nothing, a client may leave out
    defaults.
    """
    written = issubclass(kind, ServerOut) and not kind.__struct_config__.omit_defaults
    presence = "always" if field.required or written else "when it applies"
    return f"| `{field.encode_name}` | {shown(field.type)} | {presence} |"


def limit_table() -> str:
    """The numbers that a client has to live with."""
    defaults = {declared.name: declared.metadata["default"] for declared in fields(Config)}
    lines = [
        f"| {limit.meaning} | {amount(limit)} | {f'`{limit.setting}`' if limit.setting else ''} |"
        for limit in limits(defaults).values()
    ]
    return rows("| Limit | Value | Setting |", lines)


def amount(limit: Limit) -> str:
    """A limit's value with its unit."""
    value, kib = limit.value, 1024
    match limit.unit:
        case "s":
            return f"{value:g} s" if value >= 1 else f"{value * 1000:g} ms"
        case "bytes":
            return f"{value / kib:g} KiB" if value < kib * kib else f"{value / kib / kib:g} MiB"
    return f"{value:,}"


def advice(reaction: Reaction) -> str:
    """A reaction as something to do."""
    return "**get a new token, then reconnect**" if reaction == "new token" else f"**{reaction}**"


def close_codes() -> str:
    """Why a connection ends, what its client does, and what that means."""
    codes = [f"| {each.code} | `{each.name}` | {each.meaning} | {advice(each.client)} |" for each in CLOSES]
    codes.append(f"| others, none | | the link was lost | {advice('back off')} |")
    reactions = [f"- {advice(reaction)}: {meaning}" for reaction, meaning in REACTIONS.items()]
    waits = ", ".join(f"{seconds:g}" for seconds in BACKOFF)
    return "\n".join(
        [
            rows("| Code | Name | Why | What the client does |", codes),
            *reactions,
            "",
            f"Backing off waits {waits} s, and then the last again, each times a random factor from 0.5 to 1.5.",
            "",
        ]
    )


def error_types() -> str:
    """Every error that a request or a message can meet."""
    found = sorted(_below(OttoError), key=lambda kind: (kind.status, kind.type))
    lines = [
        f"| {kind.status} | `{kind.type}` | {sentence(kind)} |"
        for kind in (*found, OttoError)
        if kind is not errors.ConfigError
    ]
    return rows("| Status | Type | Meaning |", lines)


def _below(kind: type[OttoError]) -> Iterator[type[OttoError]]:
    for each in kind.__subclasses__():
        if each.__module__ == errors.__name__:
            yield each
            yield from _below(each)


def reports() -> str:
    """CallRail's reports by rank."""
    return rows(
        "| Rank | Path | States an outcome |",
        [f"| {rank} | `/call-rail/{kind}` | {'no' if rank in callrail.UNFINISHED else 'yes'} |"
         for kind, rank in callrail.RANKS.items()],
    )  # fmt: skip


def report_fields(shape: type[msgspec.Struct]) -> str:
    """The fields of a report that are read."""
    lines = [f"| `{field.encode_name}` | {shown(field.type)} |" for field in struct(shape).fields]
    return rows("| Field | Type |", lines)


def statuses() -> str:
    """Twilio's statuses of a call."""
    lines = [
        f"| `{status}` | {rank} | {'yes' if rank >= twilio.OVER else 'no'} |" for status, rank in twilio.RANKS.items()
    ]
    dials = ", ".join(f"`{status}`" for status in get_args(twilio.DialStatus))
    lines.append(f"| any, with `DialCallStatus` ({dials}) | {twilio.DIAL_RANK} | yes |")
    return rows("| Status | Rank | The call is over |", lines)


PARTS: Final[dict[str, Callable[[], str]]] = {
    "api-changelog": changes.markdown,
    "configuration": config.table,
    "indicators": rules.table,
    "metrics": metrics.table,
    "events": events,
    "event-data": event_data,
    "client-messages": lambda: protocol_messages(FROM_CLIENT),
    "server-messages": lambda: protocol_messages(TO_CLIENT),
    "stream-messages": lambda: protocol_messages(STREAM_ONLY),
    "limits": limit_table,
    "close-codes": close_codes,
    "errors": error_types,
    "callrail-reports": reports,
    "callrail-fields": lambda: report_fields(callrail.Fields),
    "callrail-text-fields": lambda: report_fields(callrail.TextFields),
    "twilio-statuses": statuses,
    "twilio-call-fields": lambda: report_fields(twilio.CallFields),
    "rescue-picture": rescue_docs.picture,
    "rescue-moves": rescue_docs.moves,
    "rescue-steps": rescue_docs.steps,
    "rescue-words": rescue_docs.words,
    "twilio-errors": rescue_docs.errors,
    "twilio-text-fields": lambda: report_fields(twilio.TextFields),
    **pages.PARTS,
}


def current(text: str) -> str:
    """A document with every generated part as it should be."""

    def part(found: re.Match[str]) -> str:
        if found[2] not in PARTS:
            raise Stale(f"no part is called {found[2]}")
        return f"{found[1]}\n{PARTS[found[2]]()}\n{found[3]}"

    return PART.sub(part, text)


def documents() -> Iterator[tuple[Path, str]]:
    """Every file that is written here, as it should be."""
    for path in (DOCS / name for name in FILES):
        yield path, current(path.read_text())
    yield DOCS / "openapi.json", msgspec.json.format(openapi.encoded(), indent=2).decode() + "\n"
    yield MONITORING / "recording.yml", rules.recording()
    yield MONITORING / "alerts.yml", rules.alerts()
    yield MONITORING / "indicators.tsv", figures.indicators()
    yield MONITORING / "figures.tsv", figures.figures()
    yield MONITORING / "dashboard.json", dashboard.dashboard()
    yield MONITORING / "tests" / "bounds.yml", rule_tests.tests()
    yield from pages.files()


def main(argv: list[str]) -> int:
    """Write, or check; the exit code."""
    check = argv == ["--check"]
    if argv and not check:
        print(__doc__, file=sys.stderr)
        return 2
    stale = []
    for path, wanted in documents():
        if path.exists() and path.read_text() == wanted:
            continue
        stale.append(path)
        if not check:
            path.write_text(wanted)
    for path in pages.left_over():
        stale.append(path)
        if not check:
            path.unlink()
    for path in stale:
        print(f"{'stale' if check else 'wrote' if path.exists() else 'removed'} {path.relative_to(DOCS.parent)}")
    if stale and check:
        print("Write them anew: python -m scripts.generate")
    return 1 if check and stale else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Stale as problem:
        sys.exit(f"Not generated: {problem}")

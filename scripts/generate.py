"""Writes the parts of the docs that come from the code, between their markers. `--check` only tells what is stale.

    python -m scripts.generate [--check]

A part begins with `<!-- generated: NAME -->` and ends with `<!-- end: NAME -->`; what stands around it is written by
hand and left alone.
"""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, get_args

import msgspec
from msgspec import inspect

from ottoai import config, errors, metrics
from ottoai.domain import catalogue
from ottoai.errors import OttoError
from ottoai.realtime import connection, fanout, messages, wheel
from ottoai.web import ws
from ottoai.webhooks import callrail

DOCS: Final = Path(__file__).resolve().parents[1] / "docs"
FILES: Final = ("CONFIGURATION.md", "EVENTS.md", "METRICS.md", "PROTOCOL.md", "WEBHOOKS.md")
PART: Final = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end: \2 -->)", re.DOTALL)

# When each event happens. Every event of the catalogue must stand here, and nothing else.
WHEN: Final = {
    "telephony.call.received": "The first report about a call came in, whichever of its reports that was.",
    "telephony.call.status": "A later report changed what is known of the call, without completing it.",
    "telephony.call.completed": "A final report (call-complete or call-modified) came in for the first time.",
    "telephony.call.missed": "A completed inbound call turned out to be unanswered, or answered by a voicemail.",
    "telephony.sms.sent": "A text message was accepted by its carrier.",
    "lead.created": "A number called that had not called the tenant before.",
    "lead.updated": "What the lead shows has changed: its name, or the time of its last contact.",
    "missed_call.queued": "A rescue was opened: its first text waits to be sent.",
    "missed_call.texted": "The first text of the rescue was sent.",
    "missed_call.expired": "A missed call became known more than 48 hours after it was made; no text will be sent.",
    "system.webhook.quarantined": "A genuine delivery could not be used; it is kept with its error.",
    "system.buffer_dropped": "Transient. The log no longer holds events that this connection should have got.",
    "worker.task.failed": "A job was given up after its last attempt.",
}


class Stale(Exception):
    """The docs and the code do not fit together."""


def shown(kind: inspect.Type) -> str:
    """A type in words that fit a table."""
    match kind:
        case inspect.UnionType(types=types):
            return " or ".join(sorted((shown(each) for each in types), key=lambda word: word == "null"))
        case inspect.LiteralType(values=values):
            return " or ".join(f"`{value}`" for value in values)
        case inspect.NoneType():
            return "null"
        case inspect.DateTimeType():
            return "time (RFC 3339)"
        case inspect.IntType():
            return "integer"
        case inspect.BoolType():
            return "boolean"
        case inspect.StrType():
            return "text"
        case inspect.RawType():
            return "object"
    raise Stale(f"no words for the type {kind}")


def struct(kind: type[msgspec.Struct]) -> inspect.StructType:
    """A struct with its fields."""
    found = inspect.type_info(kind)
    if not isinstance(found, inspect.StructType):
        raise Stale(f"{kind} is no struct")
    return found


def sentence(kind: type) -> str:
    """A class's docstring on one line."""
    return " ".join((kind.__doc__ or "").split())


def rows(header: str, lines: Iterator[str] | list[str]) -> str:
    """A Markdown table."""
    return "\n".join([header, re.sub(r"[^|]+", "---", header), *lines]) + "\n"


def events() -> str:
    """Every event with its data type and when it happens."""
    if WHEN.keys() != catalogue.EVENTS.keys():
        raise Stale(f"WHEN in scripts/generate.py and the catalogue differ: {WHEN.keys() ^ catalogue.EVENTS.keys()}")
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


def protocol_messages(union: object) -> str:
    """One section a message: what it is for, and its fields."""
    parts = []
    for kind in get_args(union):
        info = struct(kind)
        text = f"#### `{info.tag}`\n\n{sentence(kind)}\n"
        if info.fields:
            lines = [f"| `{f.encode_name}` | {shown(f.type)} | {presence(kind, f)} |" for f in info.fields]
            text += "\n" + rows("| Field | Type | Present |", lines)
        parts.append(text)
    return "\n".join(parts)


def presence(kind: type[msgspec.Struct], field: inspect.Field) -> str:
    """Whether a field is there: the server writes all but those that say nothing, a client may leave out defaults."""
    written = issubclass(kind, messages.ServerOut) and not kind.__struct_config__.omit_defaults
    return "always" if field.required or written else "when it applies"


def limits() -> str:
    """The numbers that a client has to live with."""
    kib = 1024
    table = {
        "Token as a first message, at most after": f"{ws.AUTH_WITHIN:g} s",
        "Message from a client": f"{messages.MAX_MESSAGE // kib} KiB",
        "Channels of one connection": str(ws.MAX_CHANNELS),
        "Malformed messages before close 4400": f"{ws.MALFORMED_LIMIT} within {ws.MALFORMED_WINDOW:g} s",
        "Ping frame to each client, every": f"{wheel.HEARTBEAT} s",
        "Silence before close 4408": f"{wheel.STALE:g} s",
        "Warning before the token expires": f"{wheel.AUTH_WARNING:g} s",
        "Grace after the token expired": f"{wheel.AUTH_GRACE:g} s",
        "Unsent bytes past which a client leaves the live stream": f"{connection.HIGH // kib} KiB, beside the "
        f"{connection.SEND_BUFFER // kib} KiB of its socket",
        "Unsent bytes below which it gets more": f"{connection.LOW // kib} KiB",
        "Time without taking enough, before close 4409": f"{fanout.STUCK:g} s",
        "Longest that a live event waits to be joined with others": f"{fanout.WINDOW_MAX * 1000:g} ms",
    }
    return rows("| Limit | Value |", [f"| {name} | {value} |" for name, value in table.items()])


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


def report_fields() -> str:
    """The fields of a report that are read."""
    lines = [f"| `{field.encode_name}` | {shown(field.type)} |" for field in struct(callrail.Fields).fields]
    return rows("| Field | Type |", lines)


PARTS: Final[dict[str, Callable[[], str]]] = {
    "configuration": config.table,
    "metrics": metrics.table,
    "events": events,
    "event-data": event_data,
    "client-messages": lambda: protocol_messages(messages.Incoming),
    "server-messages": lambda: protocol_messages(messages.Outgoing),
    "limits": limits,
    "errors": error_types,
    "callrail-reports": reports,
    "callrail-fields": report_fields,
}


def current(text: str) -> str:
    """A document with every generated part as it should be."""

    def part(found: re.Match[str]) -> str:
        if found[2] not in PARTS:
            raise Stale(f"no part is called {found[2]}")
        return f"{found[1]}\n{PARTS[found[2]]()}\n{found[3]}"

    return PART.sub(part, text)


def undocumented_codes(protocol: str) -> list[int]:
    """Close codes that the table written by hand leaves out."""
    codes = [close.code for close in messages.CLOSES]
    return [code for code in codes if f"| {code} |" not in protocol]


def main(argv: list[str]) -> int:
    """Write, or check; the exit code."""
    check = argv == ["--check"]
    if argv and not check:
        print(__doc__, file=sys.stderr)
        return 2
    stale = []
    for path in (DOCS / name for name in FILES):
        text = path.read_text()
        wanted = current(text)
        if wanted == text:
            continue
        stale.append(path)
        if not check:
            path.write_text(wanted)
    for path in stale:
        print(f"{'stale' if check else 'wrote'} {path.relative_to(DOCS.parent)}")
    if missing := undocumented_codes((DOCS / "PROTOCOL.md").read_text()):
        print(f"docs/PROTOCOL.md: the table of close codes leaves out {missing}")
        return 1
    if stale and check:
        print("Write them anew: python -m scripts.generate")
    return 1 if check and stale else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Stale as problem:
        sys.exit(f"Not generated: {problem}")

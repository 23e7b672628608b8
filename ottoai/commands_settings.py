"""A tenant's settings on the command line: the options of `tenant add` and `tenant set`, and `tenant show`."""

import asyncio
from argparse import ArgumentParser, Namespace
from datetime import date
from typing import Any, Final

from ottoai import __version__
from ottoai.config import Config
from ottoai.db import Row, open_pool
from ottoai.domain import tenants
from ottoai.domain.settings import CHECKS
from ottoai.errors import InvalidInput, NotFound
from ottoai.metrics import Metrics
from ottoai.terminal import say

NONE: Final = "none"  # no holidays
HOUSE: Final = "default"  # the text of the house
SWITCH: Final = {"on": True, "off": False}


def arguments(parser: ArgumentParser) -> None:
    """The options, but for --name."""
    parser.add_argument("--timezone", help="IANA name (UTC)")
    parser.add_argument("--hours", help='opening hours: always, or "Mon-Fri 09:00-17:00" (that)')
    parser.add_argument("--holidays", help=f"days closed, all of them: 2026-12-25,2027-01-01 or {NONE} ({NONE})")
    parser.add_argument("--texts", choices=SWITCH, help="whether callers that were missed are texted (on)")
    parser.add_argument("--first-text", help=f"the first text, {{company}} for the tenant's name; or {HOUSE} ({HOUSE})")
    parser.add_argument("--follow-up-text", help=f"the texts after it, likewise ({HOUSE})")
    parser.add_argument("--sla-minutes", type=int, help="open time after which an unanswered caller is staff's (120)")


def chosen(args: Namespace) -> dict[str, Any]:
    """The settings that were given, unchecked but for their form. Raises InvalidInput."""
    given = {name: getattr(args, name, None) for name in CHECKS}
    given["texts_enabled"] = getattr(args, "texts", None)
    return {name: _read(name, value) for name, value in given.items() if value is not None}


def _read(name: str, value: Any) -> Any:
    match name:
        case "holidays":
            return [] if value == NONE else [_day(text.strip()) for text in value.split(",")]
        case "texts_enabled":
            return SWITCH[value]
        case "first_text" | "follow_up_text":
            return None if value in {"", HOUSE} else value
    return value


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f"holidays: {text!r} is no day such as 2026-12-25") from None


def tenant_show(config: Config, args: Namespace) -> int:
    """Show a tenant's settings, in the words that `tenant set` takes, and what leads to it."""

    async def shown() -> list[Row]:
        async with open_pool(config, Metrics(__version__)) as db:
            return await tenants.every(db.system(), args.id)

    rows = asyncio.run(shown())
    if not rows:
        raise NotFound(f"There is no tenant {args.id}.")
    for name, value in _told(rows[0]).items():
        say(f"{name}\t{value}")
    return 0


def _told(row: Row) -> dict[str, object]:
    return {
        "id": row["id"],
        "name": row["name"],
        "timezone": row["timezone"],
        "hours": row["hours"],
        "holidays": ",".join(map(str, row["holidays"])) or NONE,
        "texts": next(word for word, on in SWITCH.items() if on == row["texts_enabled"]),
        "first-text": row["first_text"] or HOUSE,
        "follow-up-text": row["follow_up_text"] or HOUSE,
        "sla-minutes": row["sla_minutes"],
        "created": f"{row['created_at']:%Y-%m-%dT%H:%M:%SZ}",
        "events": row["seq"],
        "routes": row["routes"] or NONE,
    }

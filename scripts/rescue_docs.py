"""The parts of docs/RESCUE.md that come from the code: the state machine as a picture and as tables."""

from datetime import timedelta

from ottoai.domain import optout, rescue
from ottoai.domain.rescue import MOVES, OPEN, STATES, STEPS, WINDOW
from ottoai.webhooks.twilio_errors import CODES, Sort

EFFECTS: dict[Sort, str] = {
    "retry": "tried again",
    "give_up": "given up",
    "untextable": "given up, and staff is asked to call: the number takes no texts",
    "opted_out": "given up, and the number opts out",
}


def picture() -> str:
    """The state machine, in the words of Mermaid, which draws it where the docs are read."""
    inside: dict[tuple[str, str], list[str]] = {}
    out: dict[str, list[str]] = {}
    for move in MOVES:
        if move.before == OPEN:
            out.setdefault(move.after, []).append(move.cause)
        else:
            for before in move.before:
                inside.setdefault((before, move.after), []).append(move.cause)
    return "\n".join(
        [
            "```mermaid",
            "stateDiagram-v2",
            "    direction LR",
            "    [*] --> open: a call was missed",
            "    [*] --> expired: reported too late",
            "    state open {",
            "        [*] --> queued",
            *(f"        {before} --> {after}: {', '.join(causes)}" for (before, after), causes in inside.items()),
            "    }",
            *(f"    open --> {after}: {', '.join(causes)}" for after, causes in out.items()),
            *(f"    {state} --> [*]" for state in STATES if state not in OPEN),
            "```",
            "",
        ]
    )


def moves() -> str:
    """Every move of the machine."""
    lines = [
        f"| {', '.join(move.before)} | `{move.cause}` | {move.after} | `{move.event}` | {move.meaning} |"
        for move in MOVES
    ]
    return "\n".join(["| From | Cause | To | Event | When |", "|---|---|---|---|---|", *lines, ""])


def steps() -> str:
    """When a caller is texted, and what is written."""
    lines = [
        f"| {n} | {_after(step)} | {rescue.FIRST_TEXT + rescue.HOW_TO_STOP if n == 1 else rescue.FOLLOW_UP_TEXT} |"
        for n, step in enumerate(STEPS, start=1)
    ]
    table = ["| Step | Due | Text, unless the tenant has its own |", "|---|---|---|", *lines]
    return "\n".join([*table, "", f"The end is {WINDOW // timedelta(hours=1)} hours after the call.", ""])


def _after(step: timedelta) -> str:
    return f"{step // timedelta(hours=1)} hours after the call" if step else "at once"


def words() -> str:
    """The carriers' words."""
    lines = [f"| `{word}` | {', '.join(f'`{text}`' for text in texts)} |" for word, texts in optout.WORDS.items()]
    return "\n".join(["| Means | Words |", "|---|---|", *lines, ""])


def errors() -> str:
    """What error codes mean."""
    lines = [f"| {code} | {meaning} | {EFFECTS[sort]} |" for code, (sort, meaning) in CODES.items()]
    return "\n".join(["| Code | Twilio says | The text is |", "|---|---|---|", *lines, ""])

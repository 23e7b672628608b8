"""What flyctl takes, as far as docs/OPERATIONS.md and docs/DEPLOYMENT.md use it; from its reference
(https://fly.io/docs/flyctl/).

The commands themselves cannot run here: they change an app on somebody's account. What stands behind a pipe runs.
"""

import re
import shlex
from typing import Final, NamedTuple


class Usage(NamedTuple):
    """Flags (true: with a value), how many words may follow, and what each must look like."""

    flags: dict[str, bool]
    least: int = 0
    most: int = 0
    word: str = ""


APP: Final = {"--app": True, "-a": True, "--config": True, "-c": True}
GROUP: Final = {"--process-group": True, "-g": True}
USAGES: Final[dict[str, Usage]] = {
    "apps create": Usage({"--org": True, "-o": True, "--json": False}, 1, 1, r"[a-z0-9-]+"),
    "checks list": Usage(APP | {"--check-name": True, "--json": False}),
    "deploy": Usage(APP | {"--strategy": True, "--image": True}, most=1),
    "ips allocate-v4": Usage(APP | {"--shared": False, "--region": True, "--yes": False}),
    "ips allocate-v6": Usage(APP | {"--private": False, "--org": True, "--region": True}),
    "ips list": Usage(APP | {"--json": False}),
    "logs": Usage(APP | {"--no-tail": False, "-n": False, "--json": False, "--machine": True, "--region": True}),
    "proxy": Usage(
        APP | {"--bind-addr": True, "--org": True, "--select": False}, 1, 2, r"\d+(:\d+)?|[\w.-]+\.internal"
    ),
    "releases": Usage(APP | {"--image": False, "--json": False}),
    # [count], or a count for each of several groups
    "scale count": Usage(APP | GROUP | {"--region": True, "--yes": False}, 1, 9, r"\d+|[\w-]+=\d+"),
    "scale memory": Usage(APP | GROUP, 1, 1, r"\d+(?i:[kmg]i?b?)?"),  # <memoryMB>, of one group: units.RAMInBytes
    "scale show": Usage(APP | {"--json": False}),
    "secrets list": Usage(APP | {"--json": False}),
    "secrets set": Usage(APP | {"--stage": False, "--detach": False}, 1, 99, r"[A-Z_]+=.*"),
    "ssh console": Usage(
        APP | GROUP | {"--command": True, "-C": True, "--machine": True, "--select": False, "-s": False, "--user": True}
    ),
    "status": Usage(APP | {"--all": False, "--json": False, "--watch": False}),
    "volumes create": Usage(APP | {"--size": True, "--region": True, "--count": True}, 1, 1, r"\w+"),
}


def problem(line: str) -> str:
    """What flyctl would say against a line; "" when it takes it."""
    program, *words = shlex.split(line)
    name = next((each for each in USAGES if " ".join(words).startswith(each)), "")
    if program != "fly" or not name:
        return f"no usage is written down for: {line}"
    usage, rest, given = USAGES[name], words[len(name.split()) :], []
    while rest:
        word = rest.pop(0)
        flag, equals, _ = word.partition("=")
        if not word.startswith("-"):
            given.append(word)
        elif flag not in usage.flags:
            return f"unknown flag: {flag}"
        elif usage.flags[flag] and not equals:
            if not rest:
                return f"flag needs an argument: {flag}"
            rest.pop(0)
    if not usage.least <= len(given) <= usage.most:
        return f"accepts {usage.least} to {usage.most} arguments, received {len(given)}"
    wrong = [word for word in given if not re.fullmatch(usage.word or ".*", word)]
    return f"cannot be parsed: {wrong[0]}" if wrong else ""

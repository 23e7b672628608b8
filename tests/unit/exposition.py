"""A strict reader of the Prometheus text format 0.0.4, for tests: whatever Prometheus refuses, it refuses."""

import re
from dataclasses import dataclass, field

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(,?)')
_UNESCAPED = {r"\\": "\\", r"\"": '"', r"\n": "\n"}

Series = tuple[str, frozenset[tuple[str, str]]]


@dataclass
class Exposition:
    values: dict[Series, float] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    helps: dict[str, str] = field(default_factory=dict)


def parse(text: str) -> Exposition:
    """Every sample by name and labels. Raises AssertionError or ValueError for what the format does not allow."""
    assert text == "" or text.endswith("\n")
    found = Exposition()
    family = ""
    finished: set[str] = set()
    for line in text.split("\n")[:-1]:
        if line.startswith("# "):
            _, word, name, rest = f"{line} ".split(" ", 3)
            family = _turn_to(name, family, finished)
            target = found.types if word == "TYPE" else found.helps
            assert name not in target, f"{word} of {name} twice"
            target[name] = rest.strip()
            continue
        name, labels, value = _sample(line)
        if name not in {f"{family}{end}" for end in ("", "_bucket", "_sum", "_count")}:
            family = _turn_to(name, family, finished)
        assert (name, labels) not in found.values, f"twice: {line}"
        found.values[name, labels] = value
    return found


def _turn_to(name: str, family: str, finished: set[str]) -> str:
    if name != family:
        finished.add(family)
        assert name not in finished, f"{name} is not in one piece"
    return name


def _sample(line: str) -> tuple[str, frozenset[tuple[str, str]], float]:
    match = _NAME.match(line)
    assert match, line
    position = match.end()
    labels: dict[str, str] = {}
    if line[position] == "{":
        position += 1
        while line[position] != "}":
            label = _LABEL.match(line, position)
            assert label, line
            assert label[1] not in labels, line
            labels[label[1]] = re.sub(r"\\[\\\"n]", lambda m: _UNESCAPED[m[0]], label[2])
            position = label.end()
            assert label[3] or line[position] == "}", line
        position += 1
    assert line[position] == " ", line
    return match[0], frozenset(labels.items()), float(line[position + 1 :])

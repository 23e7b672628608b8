"""What the pages of docs/howto tell their reader to do, and how it is done in a copy of the project.

A page says it in words before a block: "New file `path`:", "In `path`, after `line`:" (or before), "In `path`, at the
end:"; or in a line alone, "In `path`, `this` becomes `that`." `line` is how a line begins, and there is one such.
"""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = ROOT / "docs" / "howto"
FOLDERS: Final = ("docs", "jobs", "monitoring", "ottoai", "scripts", "sql", "tests")
FILES: Final = ("Makefile", "pyproject.toml", "setup.cfg")
CODE: Final = r"`([^`]+)`"
SAID: Final = rf"(?:New\sfile\s{CODE}|In\s{CODE},\s(?:(after|before)\s{CODE}|at\sthe\s(end))):"
BLOCK: Final = re.compile(rf"{SAID}\n\n```\w+\n(.*?)^```$", re.DOTALL | re.MULTILINE)
WORDS: Final = re.compile(rf"In\s{CODE},\s{CODE}\sbecomes\s{CODE}\.")
COMMANDS: Final = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
ANY: Final = re.compile(r"^```", re.MULTILINE)
BLANK: Final = {".py": "\n\n", ".sql": "\n"}  # between what stands at the end of a file and what comes there


class Edit(NamedTuple):
    """One thing to do. `where`: new, after, before, end, or becomes."""

    path: str
    where: str
    at: str
    text: str


def edits(page: str) -> Iterator[Edit]:
    """All that a page says to do. Every block is one, or commands."""
    assert len(ANY.findall(page)) == 2 * (len(BLOCK.findall(page)) + len(COMMANDS.findall(page))), "a block of nothing"
    for new, path, where, at, end, text in BLOCK.findall(page):
        yield Edit(new or path, where or end or "new", at, text)
    for path, this, that in WORDS.findall(page):
        yield Edit(path, "becomes", this, that)


def commands(page: str) -> list[list[str]]:
    """The commands that a page ends with."""
    return [shlex.split(line) for block in COMMANDS.findall(page) for line in block.splitlines()]


def apply(edit: Edit, root: Path) -> None:
    """Do it, as a careful reader would, who stops where the page does not fit."""
    path = root / edit.path
    assert path.exists() == (edit.where != "new"), edit.path
    text = path.read_text() if path.exists() else ""
    if edit.where == "new":
        text = edit.text
    elif edit.where == "end":
        text += BLANK[path.suffix] + edit.text
    elif edit.where == "becomes":
        assert text.count(edit.at) == 1, f"{edit.path} has {text.count(edit.at)} times: {edit.at}"
        text = text.replace(edit.at, edit.text)
    else:
        lines = text.splitlines(keepends=True)
        found = [number for number, line in enumerate(lines) if line.strip().startswith(edit.at)]
        assert len(found) == 1, f"{edit.path} has {len(found)} lines that begin with {edit.at}"
        lines.insert(found[0] + (edit.where == "after"), edit.text)
        text = "".join(lines)
    path.write_text(text)


def copied(root: Path) -> None:
    """Copy what pages change, and what then is run."""
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", "images", "charts"))
    for file in FILES:
        shutil.copy2(ROOT / file, root / file)
    if (ROOT / ".mypy_cache").exists():  # of `make lint`: what did not change need not be read again
        shutil.copytree(ROOT / ".mypy_cache", root / ".mypy_cache")

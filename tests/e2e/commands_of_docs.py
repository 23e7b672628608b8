"""The commands that stand in a document, docs/OPERATIONS.md unless another is named: every block marked `sh`, and every
word in backticks that is one.
"""

import re
from pathlib import Path
from typing import Final

DOC: Final = Path(__file__).parents[2] / "docs" / "OPERATIONS.md"
BLOCK: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
GENERATED: Final = re.compile(r"<!-- generated: .*?<!-- end: [a-z-]+ -->", re.DOTALL)
CODE: Final = re.compile(r"`([^`\n]+)`")
PROGRAMS: Final = (
    "curl",
    "make",
    "psql",
    "pg_dump",
    "pg_restore",
    "redis-cli",
    "fly",
    "timeout",
    "echo",
    "jq",
    "docker",
)
COMMAND: Final = re.compile(
    rf"(?:\w+=\S+ )*(?:(?:{'|'.join(PROGRAMS)}) \S|python -|(?:\./)?scripts/\w+\.sh|"
    r"(?:tenant|jobs|quarantine|queues|token) [a-z]|metrics(?: \||$))"  # the last is a function that the page defines
)
SHORT: Final = re.compile(
    r"(?:tenant|jobs|quarantine|queues|token) "
)  # the document says that these are `python -m ottoai …`
COMMENT: Final = re.compile(r"\s+# .*$")


def blocks(text: str) -> list[str]:
    """The blocks of commands, without their comments. A block that is not marked with its language is an error."""
    found = BLOCK.findall(text)
    assert all(language for language, _ in found), "a block without a language: sh, promql, json, …"
    return [body.strip() for language, body in found if language == "sh"]


def lines(block: str) -> list[str]:
    """A block's commands: continued lines joined, comments gone."""
    joined = re.sub(r"[ \t]*\\\n\s*", " ", "\n".join(COMMENT.sub("", line) for line in block.splitlines()))
    return [line.strip() for line in joined.splitlines() if line.strip()]


def inline(text: str) -> list[str]:
    """The commands in the running text and in tables, where a pipe is escaped."""
    prose = BLOCK.sub("", GENERATED.sub("", text))
    found = [code.replace("\\|", "|") for code in CODE.findall(prose)]
    return [f"python -m ottoai {code}" if SHORT.match(code) else code for code in found if COMMAND.match(code)]


def commands(doc: Path = DOC) -> list[str]:
    """All, each once, as they stand there: a block is one."""
    text = doc.read_text()
    return list(dict.fromkeys([*("\n".join(lines(block)) for block in blocks(text)), *inline(text)]))

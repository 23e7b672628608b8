"""What commands write for people: one way to standard output and one to standard error, on which the words of others
cannot steer a terminal. Not for log lines (log.py), nor for what a program reads (`tenant export`).
"""

import sys
from typing import IO

from ottoai import log


def say(text: str) -> None:
    """Print a line, whatever it is piped into."""
    _write(sys.stdout, text)


def tell(text: str) -> None:
    """Print a line that is not among the output: progress, or why a command failed."""
    _write(sys.stderr, text)


def _write(stream: IO[str], text: str) -> None:
    stream.write(log.visible(text) + "\n")
    stream.flush()

"""The log lines of this process, as production would write them."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ottoai.log import JsonLines

OURS = ("ottoai", "jobs")


@contextmanager
def recorded() -> Iterator[list[dict[str, Any]]]:
    """Every line of ours written inside the block, down to DEBUG."""
    lines: list[dict[str, Any]] = []
    formatter = JsonLines("test")

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(formatter.format(record)))

    handler = Keeping()
    loggers = [logging.getLogger(name) for name in OURS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)

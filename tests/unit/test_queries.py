"""The named queries as a whole."""

import re
from collections import Counter

from ottoai.db import PREPARED, sql_folder

NAME = re.compile(r"^-- name: (\w+)", re.MULTILINE)


def test_what_is_prepared_has_a_name_of_its_own():
    """A connection knows prepared statements by name alone, whichever file the query is in."""
    names = Counter(name for path in sql_folder().glob("*.sql") for name in NAME.findall(path.read_text()))
    assert {name: names[name] for name in PREPARED} == dict.fromkeys(PREPARED, 1)

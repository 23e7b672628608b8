"""A database session that may try anything: nothing of it stays."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2


@contextmanager
def trying(url: str) -> Iterator[Any]:
    """A cursor in a transaction of the operator's login that is rolled back at the end."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        yield cursor
        connection.rollback()


@contextmanager
def acting(cursor: Any, role: str, tenant: str = "") -> Iterator[None]:
    """Act as a role, for a tenant if one is given; what was changed meanwhile is undone, errors included."""
    cursor.execute("savepoint acting")
    cursor.execute("select set_config('role', %s, true), set_config('app.tenant_id', %s, true)", (role, tenant))
    try:
        yield
    finally:
        cursor.execute("rollback to savepoint acting")
        cursor.execute("release savepoint acting")

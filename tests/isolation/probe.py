"""What roles really can do with two tenants in the database: `problems` says where one reaches the other.

It looks at behaviour alone and knows no policy: that is the catalogue's matter.
"""

import json
from typing import Any

import psycopg2

from tests.isolation.canaries import THING_IDS, A, B, Planted
from tests.isolation.catalogue import CROSSING, GRANTS, IN_PLACE, NOBODYS, OWN_ROW
from tests.isolation.sessions import acting

TABLES = sorted(GRANTS.keys() - NOBODYS)
GHOST = "nobody"


def problems(cursor: Any) -> list[str]:
    """All that reaches too far, or no longer far enough."""
    found = []
    for table in TABLES:
        app, system = (words.split() for words in GRANTS[table])
        for role, words in (("ottoai_app", app), ("ottoai_privacy", ["select", "delete"])):
            if "select" in words:
                found += _reads(cursor, role, table)
        if "insert" in app:
            found += _inserts(cursor, table)
        if "update" in app:
            found += _moves(cursor, "ottoai_app", table)
        if table in IN_PLACE:
            found += _moves(cursor, "ottoai_privacy", table)
        found += _crosses(cursor, table, system)
        if (table, "ottoai_system") not in CROSSING and _count(cursor, "", table, ""):
            found.append(f"the operator's login sees rows of {table} without naming a tenant")
    return found + _witness(cursor)


def _key(table: str) -> str:
    return "id" if table in OWN_ROW else "tenant_id"


def _count(cursor: Any, role: str, table: str, tenant: str) -> int:
    """Rows that a role sees for a tenant; as the login itself when no role is given."""
    with acting(cursor, role or "none", tenant):
        try:
            cursor.execute(f"select count(*) from {table}")
            return int(cursor.fetchone()[0])
        except psycopg2.errors.InsufficientPrivilege:
            return 0


def _reads(cursor: Any, role: str, table: str) -> list[str]:
    wrong = []
    for tenant in (A.id, B.id):
        with acting(cursor, role, tenant):
            cursor.execute(f"select distinct {_key(table)} from {table}")
            seen = {row[0] for row in cursor.fetchall()}
        if seen != {tenant}:
            wrong.append(f"{role} for {tenant} sees in {table} the rows of {sorted(map(str, seen))}")
    wrong += [f"{role} sees {table} without a tenant" for _ in range(1) if _count(cursor, role, table, "")]
    return wrong + [f"{role} sees {table} as {GHOST}" for _ in range(1) if _count(cursor, role, table, GHOST)]


def _inserts(cursor: Any, table: str) -> list[str]:
    """Whether A can write a row of B's."""
    with acting(cursor, "ottoai_privacy", A.id):
        cursor.execute(f"select to_jsonb(t)::text from {table} as t limit 1")
        row = cursor.fetchone()
    if row is None:
        return [f"{table} holds nothing of {A.id} to try with"]
    stolen = json.dumps({**json.loads(row[0]), _key(table): B.id})
    cursor.execute(
        "select string_agg(column_name, ', ') from information_schema.columns"
        " where table_schema = 'public' and table_name = %s and is_generated = 'NEVER'",
        (table,),
    )
    columns = cursor.fetchone()[0]
    sql = f"insert into {table} ({columns}) select {columns} from jsonb_populate_record(null::{table}, %s)"
    return _refused(cursor, "ottoai_app", f"A can insert into {table} as B", sql, stolen)


def _moves(cursor: Any, role: str, table: str) -> list[str]:
    """Whether A can turn a row of its own into one of B's, or touch B's."""
    key = _key(table)
    wrong = _refused(cursor, role, f"{role} can move rows of {table} to B", f"update {table} set {key} = %s", B.id)
    with acting(cursor, role, A.id):
        try:
            cursor.execute(f"update {table} set {key} = %s where {key} <> %s", (A.id, A.id))
            touched = cursor.rowcount > 0
        except psycopg2.Error:
            touched = True  # nothing can go wrong with rows that are not seen
    return wrong + ([f"{role} for A updates rows of {table} that are not A's"] if touched else [])


def _refused(cursor: Any, role: str, told: str, sql: str, *values: Any) -> list[str]:
    """Only a refusal by policy or grant counts: any other error came after the row had been let through."""
    with acting(cursor, role, A.id):
        try:
            cursor.execute(sql, values)
        except psycopg2.errors.InsufficientPrivilege:
            return []
        except psycopg2.Error as error:
            return [f"{told}, but for {type(error).__name__}"]
        return [told]


def _crosses(cursor: Any, table: str, words: list[str]) -> list[str]:
    """Whether ottoai_system sees both tenants where it must, and none where it must not."""
    with acting(cursor, "ottoai_system"):
        try:
            cursor.execute(f"select count(distinct {_key(table)}) from {table}")
            seen = int(cursor.fetchone()[0])
        except psycopg2.errors.InsufficientPrivilege:
            seen = 0
    wanted = 2 if (table, "ottoai_system") in CROSSING and "select" in words else 0
    return [] if min(seen, 2) == wanted else [f"ottoai_system sees {seen} tenants in {table}, not {wanted}"]


def _witness(cursor: Any) -> list[str]:
    """Whether the look behind the caller's back tells foreign from own and missing."""
    wrong = []
    wanted = [(noun, B.uuid(n), True) for noun, n in THING_IDS.items()]
    wanted += [(noun, A.uuid(n), False) for noun, n in THING_IDS.items()]
    wanted += [(noun, Planted("", "", "c0c0c0c0", "", "", "").uuid(n), False) for noun, n in THING_IDS.items()]
    wanted += [("tenant", B.id, True), ("tenant", A.id, False), ("tenant", GHOST, False)]
    for noun, subject, elsewhere in wanted:
        with acting(cursor, "ottoai_system"):
            cursor.execute("select exists_elsewhere(%s, %s, %s)", (A.id, noun, subject))
            if cursor.fetchone()[0] is not elsewhere:
                wrong.append(f"exists_elsewhere is wrong about {noun} {subject}")
    with acting(cursor, "ottoai_app", A.id):
        try:
            cursor.execute("select exists_elsewhere(%s, 'lead', %s)", (A.id, B.lead))
            wrong.append("ottoai_app may ask for other tenants' ids")
        except psycopg2.errors.InsufficientPrivilege:
            pass
    return wrong

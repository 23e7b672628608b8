"""What the database must look like for tenants to be kept apart, and `problems`, which says where it does not.

A new table, view, function or grant fails tests/isolation/test_catalogue.py until it stands here, with its reason.
"""

from typing import Any, Final

POLICY: Final = "(tenant_id = ( SELECT current_tenant() AS current_tenant))"
OWN_ROW: Final = {"tenants": "(id = ( SELECT current_tenant() AS current_tenant))"}
ROLES: Final = ("ottoai_app", "ottoai_privacy", "ottoai_system", "ottoai_witness")

# Every table: what ottoai_app and ottoai_system may do with it. ottoai_privacy may select and delete in all with
# tenants' rows, and update those of IN_PLACE.
OPERATORS: Final = (
    "alerts", "ops_audit", "ops_hours", "ops_leases", "ops_minutes", "paused_queues", "periodic_runs",
)  # fmt: skip
GRANTS: Final = {
    **dict.fromkeys(OPERATORS, ("", "select insert update delete")),
    "calls": ("select insert update", ""),
    "clerk_users": ("", "select insert update delete"),
    "credentials": ("", "select insert update"),
    "development_texts": ("select insert", ""),
    "events": ("select insert", "select delete"),
    "heads": ("select insert update", "select insert update"),
    "idempotency_keys": ("select insert", "select delete"),
    "leads": ("select insert update", ""),
    "messages": ("select insert update", ""),
    "missed_calls": ("select insert update", ""),
    "opt_outs": ("select insert update delete", ""),
    "outbox": ("select insert update", "select update delete"),
    "payloads": ("select insert", "select delete"),
    "recaps": ("select insert", "select"),
    "reconciliations": ("select insert update", "select"),
    "request_keys": ("select insert", "select delete"),
    "revocations": ("", "select insert update"),
    "tasks": ("select insert update", ""),
    "tenant_routes": ("", "select insert update delete"),
    "tenants": ("select", "select insert update"),
    "unclaimed_deliveries": ("", "select insert delete"),
    "users": ("select insert update", "select"),
}
IN_PLACE: Final = frozenset({"calls", "events", "heads"})

# Policies beside the tenant's own, each with the reason why it crosses tenants.
CROSSING: Final = {
    **{(name, "ottoai_system"): "operators' own: nothing in it is a tenant's" for name in OPERATORS},
    ("clerk_users", "ottoai_system"): "users of all tenants, as Clerk tells of them",
    ("users", "ottoai_system"): "at which tenants a user works",
    ("credentials", "ottoai_system"): "with which key a delivery is verified; tenant add, set",
    ("events", "ottoai_system"): "retention",
    ("heads", "ottoai_system"): "which logs grew",
    ("idempotency_keys", "ottoai_system"): "retention, operators' counts, quarantine",
    ("outbox", "ottoai_system"): "due jobs of all tenants",
    ("payloads", "ottoai_system"): "retention, quarantine",
    ("recaps", "ottoai_system"): "whose day has not been told yet",
    ("request_keys", "ottoai_system"): "retention",
    ("reconciliations", "ottoai_system"): "whose turn it is to be compared",
    ("revocations", "ottoai_system"): "revoked tokens of all tenants",
    ("tenant_routes", "ottoai_system"): "whose a delivery is",
    ("tenants", "ottoai_system"): "tenant add, set, list",
    ("unclaimed_deliveries", "ottoai_system"): "nobody's yet",
    ("calls", "ottoai_witness"): "whether an id is another tenant's: ids only, through one function",
    ("leads", "ottoai_witness"): "the same",
    ("messages", "ottoai_witness"): "the same",
    ("missed_calls", "ottoai_witness"): "the same",
    ("tasks", "ottoai_witness"): "the same",
    ("tenants", "ottoai_witness"): "the same",
}
COLUMNS_OF_APP: Final = {  # what may change in rows that otherwise stay as they are
    ("idempotency_keys", "outcome"): "a quarantined delivery has had its effect",
    ("payloads", "error"): "why it stays quarantined",
    **{
        ("tenants", column): "settings that the tenant changes by its own API"
        for column in (
            "name",
            "timezone",
            "hours",
            "holidays",
            "texts_enabled",
            "first_text",
            "follow_up_text",
            "sla_minutes",
            "version",
        )
    },
}
COLUMNS_OF_WITNESS: Final = {"tenants": {"id"}}  # elsewhere tenant_id and id

# Exceptions.
WITHOUT_TENANT: Final = {
    **dict.fromkeys(OPERATORS, "operators' own; the system role alone"),
    "tenants": "is the tenant",
    "clerk_users": "of users, whatever tenants they belong to; the system role alone",
    "unclaimed_deliveries": "of companies that are no tenants yet; the system role alone",
}
NOBODYS: Final = WITHOUT_TENANT.keys() - {"tenants"}
NULLABLE_TENANT: Final = {"revocations": "of a user in every tenant; no tenant sees such a row"}
TOOLS: Final = {
    "_yoyo_log": "the migrations' own books, without data of tenants",
    "_yoyo_migration": "the same; readiness reads it",
    "_yoyo_version": "the same",
    "yoyo_lock": "the same",
}
VIEWS: Final = {"logs": {"ottoai_app": "select", "ottoai_privacy": "select"}}
TOOL_GRANTS: Final = {"_yoyo_migration": {"ottoai_system": "select"}}
DEFINERS: Final = {
    "exists_elsewhere": "answers yes or no about an id that is known; as its owner, who may read ids and nothing else"
}
TENANT_SETTING: Final = "NULLIF(current_setting('app.tenant_id'::text, true), ''::text)"


def problems(cursor: Any) -> list[str]:
    """All that is not as it should be, in sentences; none when tenants are kept apart."""
    checks = (_relations, _policies, _grants, _columns, _roles, _functions, _schema)
    return [problem for check in checks for problem in check(cursor)]


def _rows(cursor: Any, sql: str, *values: Any) -> list[Any]:
    cursor.execute(sql, values or None)
    return list(cursor.fetchall())


def _relations(cursor: Any) -> list[str]:
    found = _rows(
        cursor,
        """
        select c.relname, c.relkind::text, c.relrowsecurity, c.relforcerowsecurity, c.reloptions::text,
            (select a.attnotnull from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id'),
            c.relowner = any(select oid from pg_roles where rolname = any(%s)) as owned
        from pg_class c
        where c.relnamespace = 'public'::regnamespace and c.relkind not in ('i', 'I', 'S', 'c', 't')
        order by 1
        """,
        list(ROLES),
    )
    wrong = [f"{name} is gone from the database: take it out" for name in GRANTS.keys() - {row[0] for row in found}]
    for name, kind, enabled, forced, options, tenant, owned in found:
        if owned:
            wrong.append(f"{name} is owned by a role that acts for tenants: it could switch its policies off")
        if name in TOOLS:
            continue
        if kind == "v":
            if name not in VIEWS:
                wrong.append(f"view {name} is not listed in VIEWS")
            if "security_invoker=true" not in (options or ""):
                wrong.append(f"view {name} reads as its owner: make it with (security_invoker = true)")
        elif kind != "r":
            wrong.append(f"{name} is of kind {kind!r}, for which nobody has thought about tenants yet")
        elif name not in GRANTS:
            wrong.append(f"table {name} is new: list it in GRANTS (and CROSSING, if a policy crosses tenants)")
        if kind == "r":
            if not (enabled and forced):
                wrong.append(f"{name}: row-level security must be enabled and forced")
            if tenant is None and name not in WITHOUT_TENANT:
                wrong.append(f"{name} has no tenant_id")
            if tenant is False and name not in NULLABLE_TENANT:
                wrong.append(f"{name}.tenant_id may be null")
    return wrong


def _policies(cursor: Any) -> list[str]:
    found = _rows(
        cursor,
        "select tablename, policyname, permissive, roles::text[], cmd, qual, with_check from pg_policies"
        " where schemaname = 'public' order by 1, 2",
    )
    wrong, own, crossing = [], set(), set()
    for table, name, permissive, roles, command, using, check in found:
        if set(roles) & {"ottoai_app", "ottoai_privacy"}:
            own.add(table)
            wanted = OWN_ROW.get(table, POLICY)
            if (set(roles), permissive, command) != ({"ottoai_app", "ottoai_privacy"}, "PERMISSIVE", "ALL"):
                wrong.append(f"policy {name} on {table} must be for all commands of ottoai_app and ottoai_privacy")
            if (using, check) != (wanted, wanted):
                wrong.append(f"policy {name} on {table} must have using and with check {wanted}")
        for role in set(roles) - {"ottoai_app", "ottoai_privacy"}:
            crossing.add((table, role))
            if (table, role) not in CROSSING:
                wrong.append(f"policy {name} lets {role} cross tenants on {table}: list it in CROSSING with its reason")
            if role == "ottoai_witness" and command != "SELECT":
                wrong.append(f"policy {name} on {table} lets ottoai_witness do more than read")
    twice = len(found) - len(own) - len(crossing)
    wrong += [f"{table} has no policy for ottoai_app" for table in GRANTS.keys() - NOBODYS - own]
    wrong += [f"the policy of {role} on {table} is gone" for table, role in CROSSING.keys() - crossing]
    return wrong + (["a table has two policies for the same role: they add up"] if twice else [])


def _grants(cursor: Any) -> list[str]:
    found: dict[tuple[str, str], set[str]] = {}
    for relation, role, privilege in _rows(
        cursor,
        """
        select c.relname, coalesce(r.rolname, 'PUBLIC'), lower(a.privilege_type)
        from pg_class c, aclexplode(c.relacl) a left join pg_roles r on r.oid = a.grantee
        where c.relnamespace = 'public'::regnamespace and a.grantee <> c.relowner
        """,
    ):
        found.setdefault((relation, role), set()).add(privilege)
    expected = {(table, "ottoai_app"): set(app.split()) for table, (app, _) in GRANTS.items()}
    expected |= {(table, "ottoai_system"): set(system.split()) for table, (_, system) in GRANTS.items()}
    for table in GRANTS.keys() - NOBODYS:
        expected[table, "ottoai_privacy"] = {"select", "delete"} | ({"update"} if table in IN_PLACE else set())
    for listed in (VIEWS, TOOL_GRANTS):
        expected |= {(name, role): set(words.split()) for name, of in listed.items() for role, words in of.items()}
    wrong = []
    for relation, role in sorted(found.keys() | expected.keys()):
        has, wanted = found.get((relation, role), set()), expected.get((relation, role), set())
        wrong += [f"{role} may {privilege} on {relation}, which it does not need" for privilege in sorted(has - wanted)]
        wrong += [f"{role} may not {privilege} on {relation}" for privilege in sorted(wanted - has)]
    return wrong


def _columns(cursor: Any) -> list[str]:
    found = {
        (table, column, role, privilege)
        for table, column, role, privilege in _rows(
            cursor,
            """
            select c.relname, t.attname, coalesce(r.rolname, 'PUBLIC'), lower(a.privilege_type)
            from pg_class c join pg_attribute t on t.attrelid = c.oid, aclexplode(t.attacl) a
            left join pg_roles r on r.oid = a.grantee
            where c.relnamespace = 'public'::regnamespace
            """,
        )
    }
    expected = {
        (table, column, "ottoai_witness", "select")
        for table, role in CROSSING
        if role == "ottoai_witness"
        for column in COLUMNS_OF_WITNESS.get(table, {"tenant_id", "id"})
    } | {(table, column, "ottoai_app", "update") for table, column in COLUMNS_OF_APP}
    return [f"a grant on a column that should not be, or is missing: {each}" for each in sorted(found ^ expected)]


def _roles(cursor: Any) -> list[str]:
    found = _rows(
        cursor,
        """
        select rolname, rolsuper or rolbypassrls or rolcreaterole or rolcreatedb or rolreplication or rolcanlogin,
            exists (select from pg_auth_members m where m.member = r.oid)
        from pg_roles r where rolname like 'ottoai\\_%%' or rolname = any(%s)
        """,
        list(ROLES),
    )
    wrong = [f"role {name} may do more than it needs" for name, powerful, _ in found if powerful]
    wrong += [f"role {name} is a member of another role" for name, _, member in found if member]
    return wrong + [f"roles {sorted(row[0] for row in found)}" for _ in [0] if {row[0] for row in found} != set(ROLES)]


def _functions(cursor: Any) -> list[str]:
    wrong = []
    for name, definer, language, owner, path, callers in _rows(
        cursor,
        """
        select p.proname, p.prosecdef, l.lanname, o.rolname, coalesce(p.proconfig::text, ''),
            array(select coalesce(r.rolname, 'PUBLIC')::text
                from aclexplode(p.proacl) a left join pg_roles r on r.oid = a.grantee order by 1)
        from pg_proc p join pg_language l on l.oid = p.prolang join pg_roles o on o.oid = p.proowner
        where p.pronamespace = 'public'::regnamespace
        """,
    ):
        if language not in {"sql", "plpgsql"}:
            wrong.append(f"function {name} is in {language}")
        if definer and name not in DEFINERS:
            wrong.append(f"function {name} runs as its owner: make it security invoker, or list it in DEFINERS")
        if name in DEFINERS:
            if (owner, callers) != ("ottoai_witness", ["ottoai_system", "ottoai_witness"]):
                wrong.append(f"function {name} must be ottoai_witness's, and be called by ottoai_system alone")
            if "search_path=" not in path or not definer:
                wrong.append(f"function {name} must run as its owner, with a search_path of its own")
    [(setting,)] = _rows(cursor, "select pg_get_functiondef('current_tenant'::regproc)")
    return wrong + ([] if TENANT_SETTING in setting else ["current_tenant() does not read app.tenant_id"])


def _schema(cursor: Any) -> list[str]:
    wrong = [
        f"{role} may create things in public, which functions could be made to use"
        for role in (*ROLES, "public")
        if _rows(cursor, "select has_schema_privilege(%s, 'public', 'create')", role)[0][0]
    ]
    if _rows(cursor, "select 1 from pg_default_acl"):
        wrong.append("default privileges give rights that no migration shows")
    return wrong

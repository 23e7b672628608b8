-- Who may look whether an id is another tenant's, and who may export and erase what is kept of a tenant.
--
-- Two more roles, neither of which a process of the service acts as:
--   ottoai_witness  owns the one function that says yes or no to "is this id another tenant's?", and may read ids only
--   ottoai_privacy  one tenant, as ottoai_app: reads and erases all that is kept of it (`tenant export`, `tenant erase`)

do $$
begin
    if not exists (select from pg_roles where rolname = 'ottoai_witness') then
        create role ottoai_witness nologin nobypassrls;
    end if;
    if not exists (select from pg_roles where rolname = 'ottoai_privacy') then
        create role ottoai_privacy nologin nobypassrls;
    end if;
end
$$;

-- Not inherited: an operator's psql must not see through either what it does not see without it.
grant ottoai_witness to current_user with inherit false, set true; -- noqa: PRS
grant ottoai_privacy to current_user with inherit false, set true;
grant usage on schema public to ottoai_witness, ottoai_privacy;

-- Is it another tenant's? A function that runs as its owner, because the alternative is worse: a policy by which
-- ottoai_system reads ids would let it, and whoever inherits it, enumerate them; this answers for an id that is known.
-- Its owner reads nothing but ids and may do nothing else; its body is bound to its tables when it is made.

grant select (id) on tenants to ottoai_witness;
grant select (tenant_id, id) on calls, leads, missed_calls, messages, tasks to ottoai_witness;
create policy witness_answers on tenants for select to ottoai_witness using (true);
create policy witness_answers on calls for select to ottoai_witness using (true);
create policy witness_answers on leads for select to ottoai_witness using (true);
create policy witness_answers on missed_calls for select to ottoai_witness using (true);
create policy witness_answers on messages for select to ottoai_witness using (true);
create policy witness_answers on tasks for select to ottoai_witness using (true);

-- Through tenants, so that each probe goes by the primary key: no table has an index that begins with the id.
create function exists_elsewhere(asker text, noun text, wanted text) returns boolean
language sql stable security definer set search_path = ''
return case noun
    when 'tenant' then exists (
        select from public.tenants as t where t.id <> asker and t.id = wanted
    )
    when 'call' then exists (
        select from public.tenants as t inner join public.calls as r on t.id = r.tenant_id
        where t.id <> asker and r.id = wanted::uuid
    )
    when 'lead' then exists (
        select from public.tenants as t inner join public.leads as r on t.id = r.tenant_id
        where t.id <> asker and r.id = wanted::uuid
    )
    when 'missed_call' then exists (
        select from public.tenants as t inner join public.missed_calls as r on t.id = r.tenant_id
        where t.id <> asker and r.id = wanted::uuid
    )
    when 'message' then exists (
        select from public.tenants as t inner join public.messages as r on t.id = r.tenant_id
        where t.id <> asker and r.id = wanted::uuid
    )
    when 'task' then exists (
        select from public.tenants as t inner join public.tasks as r on t.id = r.tenant_id
        where t.id <> asker and r.id = wanted::uuid
    )
end;

revoke execute on function exists_elsewhere(text, text, text) from public;
grant execute on function exists_elsewhere(text, text, text) to ottoai_system;
grant create on schema public to ottoai_witness; -- who is to own something in it needs that, for the moment
alter function exists_elsewhere(text, text, text) owner to ottoai_witness;
revoke create on schema public from ottoai_witness;

-- All that is kept of one tenant: what ottoai_app's policies let through, in every table.

do $$
declare
    guarded record;
begin
    for guarded in select tablename, policyname from pg_policies where 'ottoai_app' = any(roles) loop
        execute format('alter policy %I on %I to ottoai_app, ottoai_privacy', guarded.policyname, guarded.tablename);
        execute format('grant select, delete on %I to ottoai_privacy', guarded.tablename);
    end loop;
end
$$;

grant select on logs to ottoai_privacy;
grant update on calls, events, heads to ottoai_privacy; -- what is made unrecognisable in place

-- A revocation outlives its tenant: the tokens of one that was erased stay refused.
alter table revocations drop constraint revocations_tenant_id_fkey;

-- The tables with tenants' rows and how many blocks each has; those that refer to others come first.
create function tenant_tables() returns table (name text, blocks bigint)
language sql stable as $$
    with recursive
    holders as (
        select c.oid, c.relname
        from pg_class as c
        where
            c.relkind = 'r' and c.relnamespace = 'public'::regnamespace
            and (
                c.relname = 'tenants'
                or exists (
                    select from pg_attribute as a
                    where a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped
                )
            )
    ),
    depths (oid, depth) as (
        select oid, 0 from holders
        union
        select k.conrelid, d.depth + 1
        from depths as d inner join pg_constraint as k on k.confrelid = d.oid
        where k.contype = 'f' and k.conrelid <> k.confrelid and d.depth < 20
    )
    select h.relname::text, pg_relation_size(h.oid) / current_setting('block_size')::bigint
    from holders as h inner join depths as d on d.oid = h.oid
    group by h.oid, h.relname
    order by max(d.depth) desc, h.relname
$$;

-- Bytes as text where they are text, else in PostgreSQL's escape form.
create function legible(given bytea) returns text
language plpgsql immutable as $$
begin
    return convert_from(given, 'UTF8');
exception when character_not_in_repertoire or untranslatable_character then
    return encode(given, 'escape');
end
$$;

-- Whether a row is about somebody: it holds the digits of the phone, however they are grouped, or it is, or refers to,
-- one of these ids.
create function mentions(content jsonb, digits text, ids text[]) returns boolean
language sql immutable as $$
    select
        position(digits in regexp_replace(content::text, '[^0-9]', '', 'g')) > 0
        or exists (
            select from jsonb_each_text(content) as f (key, value)
            where f.value = any(ids) and (f.key = 'id' or f.key like '%\_id')
        )
$$;

-- The JSON of an event without what could tell whom it was about: kept are ids, times, numbers, and words of ours.
create function pseudonymised(content jsonb, digits text) returns jsonb
language sql immutable as $$
    select coalesce(jsonb_object_agg(f.key, case
        when position(digits in regexp_replace(f.value::text, '[^0-9]', '', 'g')) > 0 then '"[erased]"'
        when jsonb_typeof(f.value) in ('null', 'boolean', 'number') then f.value
        when f.key = 'id' or f.key like any(array['%\_id', '%\_at']) then f.value
        when f.key in ('direction', 'job', 'kind', 'provider', 'queue', 'status') then f.value
        else '"[erased]"'
    end), '{}')
    from jsonb_each(content) as f (key, value)
$$;

-- The SQL that makes JSON of a row `t` of a table.
create function row_as_json(tab text) returns text
language sql stable as $$
    select 'to_jsonb(t)' || coalesce(
        string_agg(format(' || jsonb_build_object(%L, legible(t.%I))', a.attname, a.attname), ''), ''
    )
    from pg_attribute as a
    where
        a.attrelid = to_regclass(format('public.%I', tab)) and a.attnum > 0 and not a.attisdropped
        and a.atttypid = 'bytea'::regtype
$$;

-- The tenant's rows in a stretch of a table's blocks, all or only those about somebody (see `mentions`). By blocks, so
-- that a statement takes as long for a small tenant in a large table as for any.
create function tenant_rows(tab text, first bigint, count bigint, digits text, ids text[]) returns setof jsonb
language plpgsql stable as $$
begin
    return query execute format(
        'select %1$s from %2$I as t where t.ctid >= $1 and t.ctid < $2 and ($3 is null or mentions(%1$s, $3, $4))',
        row_as_json(tab), tab
    ) using format('(%s,0)', first)::tid, format('(%s,0)', first + count)::tid, digits, ids;
end
$$;

-- Deletes what `tenant_rows` gives; how many that were.
create function erase_rows(tab text, first bigint, count bigint, digits text, ids text[]) returns bigint
language plpgsql as $$
declare
    gone bigint;
begin
    execute format(
        'delete from %2$I as t where t.ctid >= $1 and t.ctid < $2 and ($3 is null or mentions(%1$s, $3, $4))',
        row_as_json(tab), tab
    ) using format('(%s,0)', first)::tid, format('(%s,0)', first + count)::tid, digits, ids;
    get diagnostics gone = row_count;
    return gone;
end
$$;

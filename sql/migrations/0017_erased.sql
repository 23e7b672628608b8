-- What an erasure finds, and what it leaves of an event, now that answers are kept and rescues say what ended them.

-- Whether a row is about somebody: it holds their digits, or an id of what hangs on them, in itself or one level down,
-- as an answer that is kept with its key does.
create or replace function mentions(content jsonb, digits text, ids text[]) returns boolean
language sql immutable as $$
    select
        position(digits in regexp_replace(content::text, '[^0-9]', '', 'g')) > 0
        or exists (
            select from (
                select f.key, f.value from jsonb_each(content) as f (key, value)
                union all
                select g.key, g.value
                from jsonb_each(content) as f (key, value),
                    jsonb_each(case jsonb_typeof(f.value) when 'object' then f.value else '{}' end) as g (key, value)
            ) as h
            where h.value #>> '{}' = any(ids) and (h.key = 'id' or h.key like '%\_id')
        )
$$;

create or replace function pseudonymised(content jsonb, digits text) returns jsonb
language sql immutable as $$
    select coalesce(jsonb_object_agg(f.key, case
        when position(digits in regexp_replace(f.value::text, '[^0-9]', '', 'g')) > 0 then '"[erased]"'
        when jsonb_typeof(f.value) in ('null', 'boolean', 'number') then f.value
        when f.key = 'id' or f.key like any(array['%\_id', '%\_at']) then f.value
        when f.key in ('direction', 'ended_by', 'job', 'kind', 'provider', 'queue', 'status') then f.value
        else '"[erased]"'
    end), '{}')
    from jsonb_each(content) as f (key, value)
$$;

-- What happened with a lead, of whatever kind.

-- name: list_timeline^
-- A page of a lead's calls, texts, missed calls and tasks together, newest first; see list_calls in calls.sql. `known`:
-- whether there is such a lead. Each kind brings as many as the page may need.
with
things as (
    (
        select
            jsonb_build_object('kind', 'call', 'at', c.started_at, 'item', call_json(c))::text as item,
            c.started_at as at,
            c.id
        from calls as c
        where
            c.tenant_id = :tenant_id and c.lead_id = :lead_id::uuid
            and (c.started_at, c.id) < (:after_at::timestamptz, :after_id::uuid)
        order by c.started_at desc, c.id desc
        limit :page_size + 1
    )
    union all
    (
        select
            jsonb_build_object('kind', 'message', 'at', m.created_at, 'item', message_json(m))::text as item,
            m.created_at as at,
            m.id
        from messages as m
        where
            m.tenant_id = :tenant_id and m.lead_id = :lead_id::uuid
            and (m.created_at, m.id) < (:after_at::timestamptz, :after_id::uuid)
        order by m.created_at desc, m.id desc
        limit :page_size + 1
    )
    union all
    (
        select
            jsonb_build_object('kind', 'missed_call', 'at', r.called_at, 'item', missed_call_json(r))::text as item,
            r.called_at as at,
            r.id
        from missed_calls as r
        where
            r.tenant_id = :tenant_id and r.lead_id = :lead_id::uuid
            and (r.called_at, r.id) < (:after_at::timestamptz, :after_id::uuid)
        order by r.called_at desc, r.id desc
        limit :page_size + 1
    )
    union all
    (
        select
            jsonb_build_object('kind', 'task', 'at', t.created_at, 'item', task_json(t))::text as item,
            t.created_at as at,
            t.id
        from tasks as t
        where
            t.tenant_id = :tenant_id and t.lead_id = :lead_id::uuid
            and (t.created_at, t.id) < (:after_at::timestamptz, :after_id::uuid)
        order by t.created_at desc, t.id desc
        limit :page_size + 1
    )
),

page as (
    select
        t.*,
        row_number() over (order by t.at desc, t.id desc) as n
    from things as t
    order by t.at desc, t.id desc
    limit :page_size + 1
)

select
    exists(select from leads where tenant_id = :tenant_id and id = :lead_id::uuid) as known,
    string_agg(item, ',' order by n) filter (where n <= :page_size) as items,
    max(at) filter (where n = :page_size) as last_at,
    max(id::text) filter (where n = :page_size) as last_id,
    coalesce(max(n) > :page_size, false) as more
from page;

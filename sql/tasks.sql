-- Tasks: work for the tenant's staff.

-- name: get_task^
-- One task as clients see it: `item` as JSON text, and its `version`. Nothing when the tenant has no such one.
select
    task_json(t)::text as item,
    t.version
from tasks as t
where t.tenant_id = :tenant_id and t.id = :id;

-- name: list_tasks^
-- A page of tasks, newest first; see list_calls.
with page as (
    select
        task_json(t)::text as item,
        t.created_at as at,
        t.id,
        row_number() over (order by t.created_at desc, t.id desc) as n
    from tasks as t
    where
        t.tenant_id = :tenant_id
        and (t.created_at, t.id) < (:after_at::timestamptz, :after_id::uuid)
        and (:status::text is null or t.status = :status)
        and (:assigned_to::text is null or t.assigned_to = :assigned_to)
        and (:kind::text is null or t.kind = :kind)
        and (:lead_id::uuid is null or t.lead_id = :lead_id::uuid)
    order by t.created_at desc, t.id desc
    limit :page_size + 1
)

select
    string_agg(item, ',' order by n) filter (where n <= :page_size) as items,
    max(at) filter (where n = :page_size) as last_at,
    max(id::text) filter (where n = :page_size) as last_id,
    coalesce(max(n) > :page_size, false) as more
from page;

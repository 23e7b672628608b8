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

-- name: change_task^
-- Assigns, completes or reopens a task as `patch` says, if it has one of `versions` (null: any). Who completes a task to
-- call somebody back has reached them: the open rescues of that lead end. Returns matches, the row as it is then, and
-- what was appended; nothing is written when nothing would change. The locks before it make others wait, so that what
-- `known` reads is what is changed; the rescues' comes first, since calls and texts end those before they close tasks.
-- The event also goes to whom the task is assigned, or else was.
select 1 from missed_calls as m
where
    m.tenant_id = :tenant_id and m.status in ('queued', 'texted', 'escalated')
    and m.lead_id = (select t.lead_id from tasks as t where t.tenant_id = :tenant_id and t.id = :id)
order by m.id
for update;
select 1 from tasks where tenant_id = :tenant_id and id = :id for no key update;
with
known as (
    select
        t as row,
        jsonb_populate_record(t, :patch::jsonb) as wanted,
        :versions::text[] is null or t.version::text = any(:versions::text[]) as matches
    from tasks as t
    where t.tenant_id = :tenant_id and t.id = :id
),

saved as (
    update tasks as t
    set
        status = (k.wanted).status,
        assigned_to = (k.wanted).assigned_to,
        completed_at = case
            when (k.wanted).status = 'open' then null
            when t.status = 'open' then now()
            else t.completed_at
        end,
        completed_by = case
            when (k.wanted).status = 'open' then null
            when t.status = 'open' then :user_id
            else t.completed_by
        end,
        updated_at = now(),
        version = t.version + 1
    from known as k
    where t.tenant_id = :tenant_id and t.id = :id and k.matches and k.wanted is distinct from k.row
    returning
        t.*,
        task_json(t) as shape,
        t.status = 'done' and (k.row).status = 'open' as completed,
        coalesce(t.assigned_to, (k.row).assigned_to) as concerned
),

ended as (
    select m.lead_id, missed_call_json(m) as shape
    from saved as s, lateral end_rescues(:tenant_id, s.lead_id, now(), 'task_done') as m
    where s.completed and s.kind = 'call_back'
),

drafts (place, event, lead_id, user_id, data) as (
    select 1, 'task.updated', s.lead_id, s.concerned, s.shape from saved as s
    union all
    select 2, 'missed_call.recovered', e.lead_id, null, e.shape from ended as e
)

select
    k.matches,
    coalesce(s.version, (k.row).version) as version,
    coalesce(s.shape, task_json(k.row))::text as shape,
    (select epoch from heads where tenant_id = :tenant_id) as epoch,
    (
        select coalesce(jsonb_agg(to_jsonb(e) order by e.seq), '[]')::text
        from append_events(
            :tenant_id, :trace_id, (select jsonb_agg(to_jsonb(d) - 'place' order by d.place) from drafts as d)
        ) as e
    ) as events
from known as k left join saved as s on true;

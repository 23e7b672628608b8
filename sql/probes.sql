-- What each API process sends itself, to see that it arrives (ops/probes.py): an event and a job of a tenant that is
-- nobody's.

-- name: make_probe_tenant!
-- Registers that tenant, unless it is there. Run as ottoai_system.
with tenant as (
    insert into tenants (id, name, timezone, hours) values (:id, 'Self-probe', 'UTC', 'always')
    on conflict (id) do nothing
    returning id
)

insert into heads (tenant_id) select t.id from tenant as t;

-- name: stage_probe^
-- Appends the event and stages the job. Jobs of probes that were given up are closed: they must not pile up while no
-- worker is there, nor be run when one comes. Returns tenant_id, epoch, events, and jobs as record_report does.
with given_up as (
    update outbox set state = 'done', finished_at = now(), leased_until = null
    where
        tenant_id = :tenant_id and job = :job and state = 'open'
        and created_at < now() - :given_up_after::interval
),

staged as (
    insert into outbox (tenant_id, job, queue, subject_id, due_at, enqueue_at, trace_context)
    values (:tenant_id, :job, 'urgent', :probe, now(), now() + :repair_after::interval, :trace_context)
    returning id, queue, tenant_id
)

select
    :tenant_id as tenant_id,
    (select jsonb_agg(to_jsonb(j))::text from staged as j) as jobs,
    (select epoch from heads where tenant_id = :tenant_id) as epoch,
    (
        select jsonb_agg(to_jsonb(e))::text
        from append_events(
            :tenant_id,
            :trace_id,
            jsonb_build_array(
                jsonb_build_object('event', :event, 'data', jsonb_build_object('probe', :probe))
            )
        ) as e
    ) as events;

-- name: finish_probe^
-- Closes a probe's job and says so in the log, in one go; nothing when it was given up. Returns epoch and events.
with closed as (
    update outbox set state = 'done', finished_at = now(), leased_until = null
    where tenant_id = :tenant_id and id = :id and state = 'open' and attempts = :attempts
    returning subject_id
)

select
    (select epoch from heads where tenant_id = :tenant_id) as epoch,
    (
        select coalesce(jsonb_agg(to_jsonb(e)), '[]')::text
        from append_events(
            :tenant_id,
            :trace_id,
            (
                select
                    jsonb_agg(jsonb_build_object('event', :event, 'data', jsonb_build_object('probe', c.subject_id)))
                from closed as c
            )
        ) as e
    ) as events;

-- name: probe_standing^
-- How a probe's job stands.
select
    state,
    attempts,
    error
from outbox
where tenant_id = :tenant_id and id = :id;

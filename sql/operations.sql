-- What operators look at and do. All of it is run as ottoai_system: it crosses tenants, and tells nothing of what is
-- theirs but their ids.

-- name: dead_jobs
-- Jobs that were given up, the latest first: those of a tenant, of a name, or all, from behind a place on.
select
    o.id::text,
    o.tenant_id,
    o.job,
    o.queue,
    o.state,
    o.attempts,
    o.error,
    split_part(o.trace_context, '-', 2) as trace_id,
    o.finished_at as at
from outbox as o
where
    o.state = 'dead'
    and (:tenant::text is null or o.tenant_id = :tenant)
    and (:job::text is null or o.job = :job)
    and (:before::timestamptz is null or (o.finished_at, o.id) < (:before, :before_id::uuid))
order by o.finished_at desc, o.id desc
limit :limit;

-- name: failing_jobs
-- The same of open jobs whose last attempt failed, those that are tried latest first. One that only waits for a better
-- hour has no traceback.
select
    o.id::text,
    o.tenant_id,
    o.job,
    o.queue,
    o.state,
    o.attempts,
    o.error,
    split_part(o.trace_context, '-', 2) as trace_id,
    o.due_at as at
from outbox as o
where
    o.state = 'open' and o.traceback is not null
    and (:tenant::text is null or o.tenant_id = :tenant)
    and (:job::text is null or o.job = :job)
    and (:before::timestamptz is null or (o.due_at, o.id) < (:before, :before_id::uuid))
order by o.due_at desc, o.id desc
limit :limit;

-- name: failed_jobs_counted
-- How many of each name were given up, or are open and failed before; no more than `most` of either are looked at.
select
    state,
    job,
    count(*) as number
from (
    (select state, job from outbox where state = 'dead' limit :most)
    union all
    (select state, job from outbox where state = 'open' and traceback is not null limit :most)
) as f
group by state, job
order by state asc, number desc, job asc;

-- name: any_job^
-- One job, whatever has become of it.
select
    id::text,
    tenant_id,
    job,
    queue,
    state,
    attempts,
    error,
    traceback,
    split_part(trace_context, '-', 2) as trace_id,
    created_at,
    due_at,
    enqueue_at,
    leased_until,
    finished_at,
    coalesce(leased_until > now(), false) as running
from outbox
where id = :id::uuid;

-- name: discard_jobs
-- Closes dead jobs that nobody wants any more: those of these ids, or all of that name that died before then. Why they
-- were given up stays to be seen for as long as done jobs are kept.
with dead as (
    select id from outbox
    where
        state = 'dead' and finished_at <= :before
        and (:ids::uuid[] is null or id = any(:ids::uuid[]))
        and (:job::text is null or job = :job)
    order by finished_at
    limit :limit
    for update
)

update outbox as o set state = 'done', finished_at = now()
from dead as d
where o.id = d.id
returning o.id::text;

-- name: audit_note$
-- Writes down what an operator does; the entry's number.
insert into ops_audit (actor, action, target, outcome) values (:actor, :action, :target, :outcome) returning id;

-- name: audit_settle!
-- Writes down what came of it.
update ops_audit set outcome = :outcome where id = :id;

-- name: audit_entries
-- What operators did, the latest first, from before that entry on.
select id, at, actor, action, target, outcome from ops_audit
where :before::bigint is null or id < :before
order by id desc
limit :limit;

-- name: audit_entry^
-- One thing that was done.
select id, at, actor, action, target, outcome from ops_audit where id = :id;

-- name: pause_queue$
-- Stops a queue; whether it was not stopped before.
insert into paused_queues (queue, paused_by) values (:queue, :paused_by) on conflict do nothing returning true;

-- name: resume_queue$
-- Lets a queue go on; whether it was stopped.
delete from paused_queues where queue = :queue returning true;

-- name: queues_paused
-- The queues from which nothing is taken now.
select queue, paused_by, paused_at from paused_queues order by queue;

-- name: alert_known$
-- Whether there is, or was, such an alert.
select true from alerts where id = :id;

-- name: note_periodic_run!
-- How a periodic job's run went, instead of what was known of the run before.
insert into periodic_runs (name, started_at, seconds, outcome, error, traceback, trace_id)
values (:name, :started_at, :seconds, :outcome, :error, :traceback, :trace_id)
on conflict (name) do update set
    started_at = excluded.started_at,
    seconds = excluded.seconds,
    outcome = excluded.outcome,
    error = excluded.error,
    traceback = excluded.traceback,
    trace_id = excluded.trace_id
where periodic_runs.started_at <= excluded.started_at;

-- name: periodic_runs
-- How each periodic job's last run went, those that failed first.
select name, started_at, seconds, outcome, error, traceback, trace_id from periodic_runs order by outcome, name;

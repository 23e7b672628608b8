-- Staged jobs.

-- name: due
-- Open jobs that nobody has or is about to have, oldest first; each is put off by `put_off`, so that the next tick
-- leaves it alone while it waits in its queue. Run as ottoai_system.
update outbox set enqueue_at = now() + :put_off::interval
where
    id in (
        select id from outbox
        where state = 'open' and enqueue_at <= now()
        order by enqueue_at
        limit :limit
        for update skip locked
    )
returning id::text, queue;

-- name: lease^
-- Takes one open job for `lease`, unless another worker has it. `abandoned` says that the attempt before this one
-- ended without a word (whatever else ends one takes its lease away): its worker was killed. Run as ottoai_system,
-- since a job's id is all a worker is told.
with found as (
    select id, leased_until is not null as abandoned
    from outbox
    where id = :id and state = 'open' and (leased_until is null or leased_until <= now())
    for update
)

update outbox as o
set attempts = o.attempts + 1, leased_until = now() + :lease::interval, enqueue_at = now() + :lease::interval
from found as f
where o.id = f.id
returning
    o.id::text,
    o.tenant_id,
    o.job,
    o.queue,
    o.subject_id::text,
    o.attempts,
    f.abandoned,
    o.trace_context,
    extract(epoch from now() - o.due_at)::float as waited_seconds;

-- name: done!
-- Closes a job whose effect needed no other change. This and the next two are for the attempt that has the lease: one
-- that lost it to a later attempt changes nothing.
update outbox set state = 'done', finished_at = now(), leased_until = null
where id = :id and state = 'open' and attempts = :attempts;

-- name: put_off!
-- Gives a job back after a failure, to be tried again in `backoff`.
update outbox
set
    error = :error,
    leased_until = null,
    due_at = now() + :backoff::interval,
    enqueue_at = now() + :backoff::interval
where id = :id and state = 'open' and attempts = :attempts;

-- name: bury^
-- Gives a job up after its last failure and says so in the log. Returns epoch and events.
with buried as (
    update outbox set state = 'dead', error = :error, leased_until = null, finished_at = now()
    where tenant_id = :tenant_id and id = :id and state = 'open' and attempts = :attempts
    returning *
),

drafts as (
    select
        'worker.task.failed' as event,
        'critical' as severity,
        jsonb_build_object('id', id, 'job', job, 'queue', queue, 'attempts', attempts) as data
    from buried
)

select
    (select epoch from heads where tenant_id = :tenant_id) as epoch,
    (
        select coalesce(jsonb_agg(to_jsonb(e) order by e.seq), '[]')::text
        from append_events(:tenant_id, :trace_id, (select jsonb_agg(to_jsonb(d)) from drafts as d)) as e
    ) as events;

-- name: backlog^
-- How many jobs are open, and for how long the oldest has been due. Run as ottoai_system.
select
    count(*) as open,
    coalesce(extract(epoch from now() - min(enqueue_at) filter (where enqueue_at <= now())), 0)::float as oldest_seconds
from outbox
where state = 'open';

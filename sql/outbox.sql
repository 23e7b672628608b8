-- Staged jobs.

-- name: due
-- Open jobs that nobody has or is about to have; each is put off by `put_off`, so that the next tick leaves it alone
-- while it waits in its queue. In turns: the oldest of every tenant, then the second oldest; who has jobs waiting
-- already has had as many turns. So a tenant with many does not hold the others up. Those of paused queues are left
-- alone. Run as ottoai_system.
with due as (
    select t.id as tenant_id, d.id, d.enqueue_at, row_number() over (partition by t.id order by d.enqueue_at) as turn
    from tenants as t
    cross join lateral (
        select o.id, o.enqueue_at from outbox as o
        where
            o.tenant_id = t.id and o.state = 'open' and o.enqueue_at <= now()
            and o.queue <> all(array(select p.queue from paused_queues as p))
        order by o.enqueue_at
        limit :limit
    ) as d
),

had as (
    select t.tenant_id, count(o.id) as turns
    from (select distinct d.tenant_id from due as d) as t
    left join outbox as o
        on t.tenant_id = o.tenant_id and o.state = 'open'
        and o.enqueue_at > now() and o.enqueue_at <= now() + :put_off::interval
    group by t.tenant_id
),

chosen as (
    select d.id from due as d inner join had as h on d.tenant_id = h.tenant_id
    order by d.turn + h.turns, d.enqueue_at
    limit :limit
),

picked as (
    select o.id from outbox as o
    where
        o.id = any(array(select c.id from chosen as c))
        and o.state = 'open' and o.enqueue_at <= now() -- another beat may have been faster
    for update skip locked
)

update outbox set enqueue_at = now() + :put_off::interval
where id = any(array(select p.id from picked as p))
returning id::text, queue, tenant_id;

-- name: lease
-- Takes open jobs for `lease`, but for those that another worker has, or that belong to a paused queue, through
-- whichever queue of Redis they came. `abandoned` says that the attempt before this one ended without a word (whatever
-- else ends one takes its lease away): its worker was killed. Run as ottoai_system, since jobs' ids are all a worker is
-- told.
with found as (
    select id, leased_until is not null as abandoned
    from outbox
    where
        id = any(:ids::uuid[]) and state = 'open' and (leased_until is null or leased_until <= now())
        and queue <> all(array(select p.queue from paused_queues as p))
    order by id -- two workers that meet over the same ids wait for each other in one order
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

-- name: renew
-- Holds on to jobs for another `lease`, all of a worker's at once. Returns those that are still its own: attempts that
-- were neither taken over nor given up; one that its worker has just closed is among them. Run as ottoai_system.
with held as (
    select * from unnest(:ids::uuid[], :attempts::integer[]) as h (id, attempts)
),

renewed as (
    update outbox as o set leased_until = now() + :lease::interval, enqueue_at = now() + :lease::interval
    from held as h
    where o.id = h.id and o.attempts = h.attempts and o.state = 'open' and o.leased_until is not null
)

select
    h.id::text,
    h.attempts
from held as h
inner join outbox as o on h.id = o.id and h.attempts = o.attempts
where o.state <> 'dead';

-- name: give_back
-- Lets go of the jobs of a worker that stops, so that another need not wait for their leases to end. Returns those that
-- it still had. Their attempts stay counted. Run as ottoai_system.
update outbox as o set leased_until = null, enqueue_at = now() + :put_off::interval
from unnest(:ids::uuid[], :attempts::integer[]) as h (id, attempts)
where o.id = h.id and o.attempts = h.attempts and o.state = 'open' and o.leased_until is not null
returning o.id::text, o.queue, o.tenant_id;

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
    traceback = :traceback,
    leased_until = null,
    due_at = now() + :backoff::interval,
    enqueue_at = now() + :backoff::interval
where id = :id and state = 'open' and attempts = :attempts;

-- name: bury^
-- Gives a job up after its last failure and says so in the log. Returns epoch and events.
with buried as (
    update outbox
    set state = 'dead', error = :error, traceback = :traceback, leased_until = null, finished_at = now()
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

-- name: dead$
-- How many jobs were given up and wait for an operator. Run as ottoai_system.
select count(*) from outbox where state = 'dead';

-- name: listed
-- Jobs of one state, oldest first: what they are and how they fared, nothing of what they are about. `stood`: for how
-- many seconds a dead one has been dead, an open one due (before that it is negative). Run as ottoai_system.
select
    id::text,
    tenant_id,
    job,
    queue,
    state,
    attempts,
    error,
    extract(epoch from now() - coalesce(finished_at, due_at))::float as stood
from outbox
where state = :state and (:tenant::text is null or tenant_id = :tenant)
order by coalesce(finished_at, due_at), id
limit :limit;

-- name: retry
-- Opens jobs again that died before then, as if they had never been begun: those of these ids, or all of that name, or
-- all. Returns what is to be enqueued now. Run as ottoai_system.
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

update outbox as o
set
    state = 'open', attempts = 0, error = null, traceback = null, finished_at = null, leased_until = null, due_at = now(),
    enqueue_at = now() + :repair_after::interval
from dead as d
where o.id = d.id
returning o.id::text, o.queue, o.tenant_id;

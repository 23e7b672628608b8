-- What the status page counts. Run as ottoai_system.

-- name: jobs_by_queue
-- How each queue's jobs stand: open; running, which a worker has now; failing, which failed before and are tried again
-- (one that only waits for a better hour has no traceback); overdue, which should have been begun `late` ago and that
-- nobody has; dead, of which no more than `most` are counted.
select
    queue,
    sum(open)::integer as open,
    sum(running)::integer as running,
    sum(failing)::integer as failing,
    sum(overdue)::integer as overdue,
    sum(dead)::integer as dead
from (
    select
        queue,
        count(*) as open,
        count(*) filter (where leased_until > now()) as running,
        count(*) filter (where traceback is not null) as failing,
        count(*) filter (
            where due_at < now() - :late::interval and (leased_until is null or leased_until <= now())
        ) as overdue,
        0 as dead
    from outbox
    where state = 'open'
    group by queue
    union all
    select queue, 0, 0, 0, 0, count(*)
    from (select queue from outbox where state = 'dead' limit :most) as d
    group by queue
) as c
group by queue;

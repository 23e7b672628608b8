-- What the watch keeps: figures over time, alerts, and which API process speaks for all. All run as ottoai_system.

-- name: take_lease^
-- Takes or renews the lease, unless another holds it. One row when it is the holder's.
insert into ops_leases as l (name, holder, leased_until)
values (:name, :holder, now() + :lease::interval)
on conflict (name) do update set holder = excluded.holder, leased_until = excluded.leased_until
where l.holder = excluded.holder or l.leased_until <= now()
returning l.holder;

-- name: release_lease!
-- Gives the lease up, so that another need not wait for its end.
delete from ops_leases where name = :name and holder = :holder;

-- name: open_alerts
-- Alerts that are not over.
select
    id, name, level, state, pending_at, fired_at, resolved_at, value, acknowledged_at, acknowledged_by,
    fired_notified_at, resolved_notified_at, quiet_since, blank_since
from alerts
where state <> 'resolved';

-- name: untold_alerts
-- Alerts that were told of, and whose end was not; older ones than `since` no longer matter to anybody.
select
    id, name, level, state, pending_at, fired_at, resolved_at, value, acknowledged_at, acknowledged_by,
    fired_notified_at, resolved_notified_at, quiet_since, blank_since
from alerts
where
    state = 'resolved' and resolved_at > :since
    and fired_notified_at is not null and resolved_notified_at is null
order by resolved_at;

-- name: past_alerts
-- Alerts that are over, the latest first, from behind that one on.
select
    id, name, level, state, pending_at, fired_at, resolved_at, value, acknowledged_at, acknowledged_by,
    fired_notified_at, resolved_notified_at, quiet_since, blank_since
from alerts
where
    state = 'resolved'
    and (
        :before::bigint is null
        or (pending_at, id) < (select b.pending_at, b.id from alerts as b where b.id = :before::bigint)
    )
order by pending_at desc, id desc
limit :limit;

-- name: save_alert$
-- Writes how an alert stands and returns its id. Two alerts of one name at the same time are one: two processes that
-- could not ask each other saw it. What is known of who was told, and since when it fires, is not taken back.
with same as (
    select id from alerts
    where
        name = :name
        and pending_at <= coalesce(:resolved_at::timestamptz, 'infinity')
        and coalesce(resolved_at, 'infinity') > :pending_at::timestamptz
    order by pending_at
    limit 1
),

changed as (
    update alerts set
        state = :state,
        fired_at = least(fired_at, :fired_at::timestamptz),
        resolved_at = coalesce(resolved_at, :resolved_at::timestamptz),
        value = :value,
        fired_notified_at = coalesce(fired_notified_at, :fired_notified_at::timestamptz),
        resolved_notified_at = coalesce(resolved_notified_at, :resolved_notified_at::timestamptz),
        quiet_since = :quiet_since::timestamptz,
        blank_since = :blank_since::timestamptz
    where id = (select s.id from same as s) and (state <> 'resolved' or :state = 'resolved')
    returning id
),

added as (
    insert into alerts (
        name, level, state, pending_at, fired_at, resolved_at, value, fired_notified_at, resolved_notified_at,
        quiet_since, blank_since
    )
    select
        :name, :level, :state, :pending_at::timestamptz, :fired_at::timestamptz, :resolved_at::timestamptz, :value,
        :fired_notified_at::timestamptz, :resolved_notified_at::timestamptz, :quiet_since::timestamptz,
        :blank_since::timestamptz
    where not exists (select from same)
    returning id
)

select id from changed
union all
select id from added;

-- name: drop_alert!
-- Forgets an alert that never fired.
delete from alerts where name = :name and state = 'pending';

-- name: acknowledge_alert$
-- Notes that somebody has seen an alert; the id, if it is open and nobody had.
update alerts set acknowledged_at = now(), acknowledged_by = :actor
where id = :id and state <> 'resolved' and acknowledged_at is null
returning id;

-- name: add_minutes!
-- Keeps minutes; who was first with one is believed.
insert into ops_minutes (at, increases, readings)
select m.at, m.increases, m.readings
from jsonb_to_recordset(:minutes::jsonb) as m (at timestamptz, increases jsonb, readings jsonb)
on conflict (at) do nothing;

-- name: sum_up_hours!
-- Sums full hours up that were not: of each indicator the last value, the least, the most, the worst verdict.
insert into ops_hours (at, readings)
select h.at, jsonb_object_agg(h.indicator, jsonb_build_array(h.last, h.least, h.most, h.worst))
from (
    select
        date_trunc('hour', m.at, 'UTC') as at,
        r.key as indicator,
        (array_agg(r.value -> 0 order by m.at desc))[1] as last,
        min((r.value ->> 0)::double precision) as least,
        max((r.value ->> 0)::double precision) as most,
        (:verdicts::text[])[max(array_position(:verdicts::text[], r.value ->> 1))] as worst
    from ops_minutes as m
    cross join lateral jsonb_each(m.readings) as r
    where
        m.at < date_trunc('hour', :now::timestamptz, 'UTC')
        and not exists (select from ops_hours as o where o.at = date_trunc('hour', m.at, 'UTC'))
    group by date_trunc('hour', m.at, 'UTC'), r.key
) as h
group by h.at
on conflict (at) do nothing;

-- name: minutes_since
-- Minutes from `since` on, oldest first, as JSON; increases only from `grown_since` on.
select
    at, readings::text as readings,
    case when at >= :grown_since then increases::text end as increases
from ops_minutes
where at >= :since and at < :until
order by at;

-- name: hours_since
-- Hours from `since` on, oldest first, as JSON.
select at, readings::text as readings from ops_hours where at >= :since and at < :until order by at;

-- name: silent_tenants
-- Tenants whose webhooks fell silent: none came in the last 4 or 24 hours, though `usual` and more did in the same hours
-- of each of the last two weeks (so neither nights nor Sundays count). What was read from a provider's list (`listed`)
-- is no webhook: it goes on when the provider has switched those off. Reads the keys of three days, by age.
-- `last_at`: of today's last webhook.
with weeks as (
    select
        tenant_id,
        count(*) filter (where created_at <= :now::timestamptz - interval '14 days') as day_before,
        count(*) filter (
            where
                created_at > :now::timestamptz - interval '14 days 4 hours'
                and created_at <= :now::timestamptz - interval '14 days'
        ) as hours_before,
        count(*) filter (where created_at > :now::timestamptz - interval '8 days') as day_last,
        count(*) filter (where created_at > :now::timestamptz - interval '7 days 4 hours') as hours_last
    from idempotency_keys
    where
        (
            (
                created_at > :now::timestamptz - interval '15 days'
                and created_at <= :now::timestamptz - interval '14 days'
            )
            or (
                created_at > :now::timestamptz - interval '8 days'
                and created_at <= :now::timestamptz - interval '7 days'
            )
        )
        and kind <> :listed and tenant_id <> :probe
    group by tenant_id
),

today as (
    select tenant_id, max(created_at) as last_at
    from idempotency_keys
    where created_at > :now::timestamptz - interval '1 day' and kind <> :listed
    group by tenant_id
)

select w.tenant_id, t.last_at
from weeks as w
left join today as t on w.tenant_id = t.tenant_id
where
    (
        least(w.hours_before, w.hours_last) >= :usual
        and coalesce(t.last_at, '-infinity') <= :now::timestamptz - interval '4 hours'
    )
    or (least(w.day_before, w.day_last) >= :usual and t.last_at is null)
order by t.last_at nulls first, w.tenant_id
limit :limit;

-- name: last_deliveries
-- When the last webhook of each of these tenants came, from `since` to `until`.
select tenant_id, max(created_at) as last_at
from idempotency_keys
where tenant_id = any(:tenants) and created_at > :since and created_at <= :until and kind <> :listed
group by tenant_id;

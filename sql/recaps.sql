-- The daily recap.

-- name: zones
-- The time zones that tenants are in. Run as ottoai_system.
select distinct timezone from tenants;

-- name: due
-- Tenants whose day is over and has not been told, a page by id; the last day that is over in each zone is given as
-- arrays side by side. Who came after its end, or was told of that day already in the zone it was in then, is not among
-- them, nor is the self-probe's tenant. Run as ottoai_system.
select
    t.id as tenant_id,
    t.timezone
from unnest(:timezones::text[], :days::date[], :untils::timestamptz[]) as e (timezone, day, until)
inner join tenants as t on e.timezone = t.timezone
where
    t.id > :after and t.id <> :probe and t.created_at < e.until
    and not exists (select from recaps as r where r.tenant_id = t.id and r.day >= e.day)
order by t.id
limit :limit;

-- name: tell^
-- Tells a tenant its day, once: claims the day, counts what happened from `since` to before `until`, appends the event.
-- Of whoever comes second nothing is told. Also nothing when the tenant is in another zone by now. `reach`: how long
-- before `since` a rescue or a text may have begun whose end is counted. Returns epoch and events.
with
wanted as (
    select
        t.timezone,
        t.id
    from tenants as t
    where
        t.id = :tenant_id and t.timezone = :timezone
        and not exists (select from recaps as r where r.tenant_id = t.id and r.day >= :day::date)
),

call_figures as (
    select
        count(*) as calls_total,
        count(*) filter (where c.direction = 'outbound') as calls_outbound,
        count(*) filter (where c.missed and c.voicemail is true) as calls_voicemail,
        count(*) filter (where c.missed and c.voicemail is not true) as calls_missed,
        count(*) filter (
            where c.direction = 'inbound' and c.status = 'completed' and c.answered and not c.missed
        ) as calls_answered
    from calls as c
    where c.tenant_id = :tenant_id and c.started_at >= :since and c.started_at < :until
),

-- A rescue with when it was first responded to: by its first text, or by staff's own call or text.
rescues as (
    select
        m.*,
        m.ended_at >= :since and m.ended_at < :until as ends,
        least(m.first_text_at, case when m.ended_by in ('outbound_call', 'outbound_text') then m.ended_at end)
            as responded_at
    from missed_calls as m
    where
        m.tenant_id = :tenant_id
        and m.called_at >= :since::timestamptz - :reach::interval and m.called_at < :until
),

rescue_figures as (
    select
        count(*) filter (where r.called_at >= :since) as rescues_opened,
        count(*) filter (where r.first_text_at >= :since and r.first_text_at < :until) as rescues_texted,
        count(*) filter (where r.escalated_at >= :since and r.escalated_at < :until) as rescues_escalated,
        count(*) filter (where r.ends and r.status = 'recovered') as rescues_recovered,
        count(*) filter (where r.ends and r.status = 'opted_out') as rescues_opted_out,
        count(*) filter (where r.ends and r.status = 'expired') as rescues_expired,
        percentile_cont(array[0.5, 0.9]) within group (
            order by greatest(extract(epoch from r.responded_at - r.called_at), 0)
        ) filter (where r.responded_at >= :since and r.responded_at < :until) as response_seconds
    from rescues as r
),

text_figures as (
    select
        count(*) filter (where m.direction = 'outbound' and m.sent_at >= :since and m.sent_at < :until) as texts_sent,
        count(*) filter (where m.direction = 'inbound' and m.created_at >= :since) as texts_received
    from messages as m
    where
        m.tenant_id = :tenant_id
        and m.created_at >= :since::timestamptz - :reach::interval and m.created_at < :until
),

told as (
    insert into recaps (tenant_id, day, data)
    select
        :tenant_id,
        :day::date,
        jsonb_build_object(
            'day', :day::date, 'since', :since::timestamptz, 'until', :until::timestamptz, 'timezone', w.timezone,
            'calls_total', c.calls_total, 'calls_answered', c.calls_answered, 'calls_missed', c.calls_missed,
            'calls_voicemail', c.calls_voicemail, 'calls_outbound', c.calls_outbound,
            'calls_unfinished',
            c.calls_total - c.calls_answered - c.calls_missed - c.calls_voicemail - c.calls_outbound,
            'new_leads',
            (
                select count(*) from leads as l
                where l.tenant_id = :tenant_id and l.created_at >= :since and l.created_at < :until
            ),
            'rescues_opened', r.rescues_opened, 'rescues_texted', r.rescues_texted,
            'rescues_recovered', r.rescues_recovered, 'rescues_escalated', r.rescues_escalated,
            'rescues_opted_out', r.rescues_opted_out, 'rescues_expired', r.rescues_expired,
            'recovery_rate',
            round(
                r.rescues_recovered::numeric
                / nullif(r.rescues_recovered + r.rescues_opted_out + r.rescues_expired, 0), 4
            ),
            'response_median_seconds', round(r.response_seconds[1]::numeric, 1),
            'response_p90_seconds', round(r.response_seconds[2]::numeric, 1),
            'texts_sent', m.texts_sent, 'texts_received', m.texts_received,
            'open_tasks', (select count(*) from tasks as t where t.tenant_id = :tenant_id and t.status = 'open')
        )
    from wanted as w, call_figures as c, rescue_figures as r, text_figures as m
    on conflict (tenant_id, day) do nothing
    returning data
)

select
    (select epoch from heads where tenant_id = :tenant_id) as epoch,
    (
        select coalesce(jsonb_agg(to_jsonb(e) order by e.seq), '[]')::text
        from append_events(
            :tenant_id, :trace_id,
            (select jsonb_agg(jsonb_build_object('event', 'analytics.daily_recap.ready', 'data', t.data)) from told as t)
        ) as e
    ) as events;

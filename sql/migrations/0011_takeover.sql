-- How rescues end, and what follows a text that did not arrive.

alter table missed_calls
add column untextable boolean not null default false; -- a carrier said that this number takes no texts

-- A carrier is called between `queued` and `sent`; to clients that is still on its way.
create or replace function message_json(m messages) returns jsonb language sql stable return jsonb_build_object(
    'id', m.id, 'lead_id', m.lead_id, 'missed_call_id', m.missed_call_id, 'step', m.step, 'direction', m.direction,
    'status', case m.status when 'sending' then 'queued' else m.status end, 'body', m.body, 'author', m.author,
    'created_at', m.created_at, 'sent_at', m.sent_at, 'error_code', m.error_code, 'version', m.version
);

create index outbox_by_subject on outbox (tenant_id, subject_id) where state = 'open';

-- Ends the open rescues of a lead whose calls came in up to a moment; returns them as they are then. `why` is what ends
-- them: stop opts out, time expires, all else recovers. Their jobs are closed with them.
create function end_rescues(tenant text, lead uuid, until timestamptz, why text) returns setof missed_calls
language plpgsql as $$
declare
    ended missed_calls;
begin
    for ended in
        update missed_calls as m
        set
            status = case why when 'stop' then 'opted_out' when 'time' then 'expired' else 'recovered' end,
            ended_by = why, ended_at = until, text_due_at = null, updated_at = now(), version = m.version + 1
        where
            m.tenant_id = tenant
            and m.id in (
                select o.id from missed_calls as o
                where
                    o.tenant_id = tenant and o.lead_id = lead and o.called_at <= until
                    and o.status in ('queued', 'texted', 'escalated')
                order by o.id -- whoever else ends them waits, instead of each for the other
                for update
            )
        returning m.*
    loop
        update outbox as j set state = 'done', finished_at = now(), leased_until = null
        where j.tenant_id = tenant and j.subject_id = ended.id and j.job = 'follow_up' and j.state = 'open';
        return next ended;
    end loop;
end
$$;

-- Closes the tasks of a kind about a lead that were open at a moment, since what they ask for happened then; returns them
-- as they are then.
create function close_tasks(tenant text, of_kind text, lead uuid, at timestamptz) returns setof tasks
language plpgsql as $$
begin
    return query
        update tasks as t
        set status = 'done', completed_at = at, updated_at = now(), version = t.version + 1
        where
            t.tenant_id = tenant
            and t.id in (
                select o.id from tasks as o
                where o.tenant_id = tenant and o.lead_id = lead and o.kind = of_kind and o.status = 'open'
                    and o.created_at <= at
                order by o.id
                for update
            )
        returning t.*;
end
$$;

-- Texts that providers report, and what became of those that were sent.

alter table messages add column error_code text; -- the carrier's, of a text that did not arrive

alter table messages drop constraint messages_status_check;
alter table messages add constraint messages_status_check
check (status in ('sending', 'sent', 'delivered', 'undelivered', 'failed', 'received'));

create unique index messages_by_provider_id on messages (tenant_id, sender, provider_id);

create or replace function message_json(m messages) returns jsonb language sql stable return jsonb_build_object(
    'id', m.id, 'lead_id', m.lead_id, 'missed_call_id', m.missed_call_id, 'step', m.step,
    'direction', m.direction, 'status', m.status, 'body', m.body, 'created_at', m.created_at, 'sent_at', m.sent_at,
    'error_code', m.error_code
);

-- Some providers sign the address that they called, so that it is needed to check what was kept.
alter table unclaimed_deliveries add column url text not null default '';

-- The development sender's memory.

-- name: record_development_text!
-- Notes a text as sent; the same message is noted once.
insert into development_texts (message_id, tenant_id, recipient, body)
values (:message_id, :tenant_id, :recipient, :body)
on conflict do nothing;

-- name: find_development_text$
-- Whether this message was noted.
select true from development_texts where tenant_id = :tenant_id and message_id = :message_id;

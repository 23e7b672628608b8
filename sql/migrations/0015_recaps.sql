-- What a day's figures are counted by.
create index leads_by_creation on leads (tenant_id, created_at);
create index messages_by_time on messages (tenant_id, created_at);

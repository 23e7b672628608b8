-- Lists of calls that few are in: without these, a page of none would look at every call of the tenant.

create index calls_unfinished on calls (tenant_id, status, started_at desc, id desc) where status <> 'completed';
create index calls_outbound on calls (tenant_id, started_at desc, id desc) where direction = 'outbound';

-- Due jobs are found tenant by tenant, so that each has its turn.

create index outbox_due_of_tenant on outbox (tenant_id, enqueue_at) where state = 'open';
drop index outbox_due;

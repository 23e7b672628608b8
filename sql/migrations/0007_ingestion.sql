-- Quarantined deliveries are replayed; providers' secrets are encrypted and can be retired.

alter table idempotency_keys drop constraint idempotency_keys_outcome_check;
alter table idempotency_keys add constraint idempotency_keys_outcome_check
check (outcome in ('processed', 'quarantined', 'replayed')); -- replayed: was quarantined, and has had its effect since

create index idempotency_keys_quarantined on idempotency_keys (created_at, id) where outcome = 'quarantined';

grant update (outcome) on idempotency_keys to ottoai_app;
grant update (error) on payloads to ottoai_app;

comment on column credentials.current is 'encrypted with a key of SECRET_KEYS, as is previous';

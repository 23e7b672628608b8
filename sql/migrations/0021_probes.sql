-- transactional: false
-- Probes' jobs are forgotten after a day, all others after a week: they must be found among those, each hour. The tenant
-- is named here, so that nobody else's jobs pay for it.
set lock_timeout = 0;
drop index concurrently if exists outbox_probes; -- left unfinished, if this was stopped in the middle
create index concurrently outbox_probes on outbox (finished_at) where tenant_id = 'ottoai-probe' and state = 'done';
reset lock_timeout;

-- Where each tenant's log stands, and how far back it reaches: it holds oldest…seq of epoch (oldest = seq + 1: nothing).

create view logs with (security_invoker = true) as
select
    h.tenant_id,
    h.epoch,
    h.seq,
    coalesce((select min(e.seq) from events as e where e.tenant_id = h.tenant_id), h.seq + 1) as oldest
from heads as h;

grant select on logs to ottoai_app;

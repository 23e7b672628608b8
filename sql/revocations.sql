-- Tokens that were revoked. All run as ottoai_system.

-- name: revoke$
-- Refuses, from now on, what tokens of these were issued up to a moment (null: now), or to a later one that was given
-- before. Returns the moment that holds; null when there is no such tenant.
insert into revocations (tenant_id, user_id, valid_after)
select :tenant_id, :user_id, coalesce(:at::timestamptz, now())
where :tenant_id::text is null or exists (select from tenants where id = :tenant_id)
on conflict (tenant_id, user_id) do update
    set valid_after = greatest(revocations.valid_after, excluded.valid_after), revoked_at = excluded.revoked_at
returning valid_after;

-- name: changed
-- What was revoked since a moment. What was revoked earlier may be seen later: whoever asks allows for that.
select
    tenant_id,
    user_id,
    valid_after,
    revoked_at
from revocations
where revoked_at > :after;

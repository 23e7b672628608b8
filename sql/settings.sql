-- A tenant's own settings, as its API shows them.

-- name: get_settings^
-- The settings as clients see them: `item` as JSON text, and their `version`. Nothing when there is no such tenant.
select
    settings_json(t)::text as item,
    t.version
from tenants as t
where t.id = :tenant_id;

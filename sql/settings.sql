-- A tenant's own settings, as its API shows them.

-- name: get_settings^
-- The settings as clients see them: `item` as JSON text, and their `version`. Nothing when there is no such tenant.
select
    settings_json(t)::text as item,
    t.version
from tenants as t
where t.id = :tenant_id;

-- name: change_settings^
-- Changes the settings that `patch` names, if the row has one of `versions` (null: any). Returns matches, and the row as
-- it is then; nothing is written when nothing would change. Rescues are decided about anew when what decides when they
-- are due has changed. The lock before it makes others wait, so that what `known`
-- reads is what is changed; it is the weakest that does, since every row of the tenant refers to this one.
select 1 from tenants where id = :tenant_id for no key update;
with
known as (
    select
        t as row,
        jsonb_populate_record(t, :patch::jsonb) as wanted,
        :versions::text[] is null or t.version::text = any(:versions::text[]) as matches
    from tenants as t
    where t.id = :tenant_id
),

saved as (
    update tenants as t
    set
        name = (k.wanted).name,
        timezone = (k.wanted).timezone,
        hours = (k.wanted).hours,
        holidays = (k.wanted).holidays,
        texts_enabled = (k.wanted).texts_enabled,
        first_text = (k.wanted).first_text,
        follow_up_text = (k.wanted).follow_up_text,
        sla_minutes = (k.wanted).sla_minutes,
        version = t.version + 1
    from known as k
    where t.id = :tenant_id and k.matches and k.wanted is distinct from k.row
    returning t.version, settings_json(t) as shape
),

hurried as (
    update outbox as j set due_at = now(), enqueue_at = now()
    from saved
    where
        j.tenant_id = :tenant_id and j.job = 'follow_up' and j.state = 'open'
        and :patch::jsonb ?| array['timezone', 'hours', 'holidays', 'texts_enabled', 'sla_minutes']
)

select
    k.matches,
    coalesce(s.version, (k.row).version) as version,
    coalesce(s.shape, settings_json(k.row))::text as shape,
    0 as epoch,
    '[]' as events
from known as k left join saved as s on true;

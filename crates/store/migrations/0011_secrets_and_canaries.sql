-- Secrets of a stead that its functions find in their environment. Sealed for the stead and the name.
create table stead_secrets (
    stead_id    uuid not null references steads on delete cascade,
    name        text not null,
    sealed      bytea not null,
    -- Counts values that it had.
    version     int8 not null default 1,
    set_by      text not null,
    set_at      timestamptz not null default now(),
    primary key (stead_id, name)
);

-- The newest release of a component is tried on a share of the calls (per cent), the others go to release `canary_base`.
alter table components
    add column canary_percent int2 check (canary_percent between 1 and 99),
    add column canary_base int8,
    add constraint canary_whole check ((canary_percent is null) = (canary_base is null));

-- The release that answered when this one was made: where a rollback of it leads.
alter table releases add column replaces int8;

alter table operations drop constraint operations_kind_check;
alter table operations add constraint operations_kind_check
    check (kind in ('apply', 'delete', 'rotate', 'move', 'clone', 'swap', 'rollback', 'promote', 'secret'));

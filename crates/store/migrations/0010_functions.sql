-- Functions. Interpreters of a host by AWS's names for them: 'nodejs24.x'.
alter table hosts add column runtimes text[] not null default '{}';

-- Packages, each tenant's its own: whoever knows a hash learns nothing of another tenant's code by it.
create table packages (
    tenant_id   uuid not null references tenants on delete cascade,
    sha256      bytea not null,
    bytes       int8 not null,
    unpacked    int8 not null,
    -- When it was last uploaded or asked for: what no release needs goes a day after that.
    asked_at    timestamptz not null default now(),
    primary key (tenant_id, sha256)
);
-- In pieces, so that no statement holds a whole one. What is in a zip is compressed already.
create table package_pieces (
    tenant_id   uuid not null,
    sha256      bytea not null,
    number      int4 not null,
    body        bytea not null,
    primary key (tenant_id, sha256, number),
    foreign key (tenant_id, sha256) references packages on delete cascade
);
alter table package_pieces alter column body set storage external;

-- Every release of a component whose kind has releases, as it was: code, environment and all. Its number is the
-- generation that brought it, and it never changes.
create table releases (
    component_id  uuid not null references components on delete cascade,
    number        int8 not null,
    spec          jsonb not null,
    -- The code, which is kept for as long as this is.
    tenant_id     uuid not null,
    package       bytea not null,
    actor         text not null,
    -- The release that this one brings back, for one made by a rollback.
    brings_back   int8,
    at            timestamptz not null default now(),
    primary key (component_id, number),
    foreign key (tenant_id, package) references packages
);
create trigger unchanged before update on releases for each row execute function refuse_rewriting();

alter table operations drop constraint operations_kind_check;
alter table operations add constraint operations_kind_check
    check (kind in ('apply', 'delete', 'rotate', 'move', 'clone', 'swap', 'rollback'));

-- What do we store? Desired and observed state of every component, the record of every edit of it, who
-- may edit, and nothing that the outside world already knows better.

create table hosts (
    name        text primary key,
    -- Address that clients are told, and the ports that servers on the host may be given.
    address     text not null,
    port_first  int4 not null,
    port_last   int4 not null check (port_last >= port_first),
    engines     int4[] not null,
    -- Whether tenants are kept apart by the operating system; one tenant only where not.
    isolated    bool not null,
    seen_at     timestamptz not null default now()
);

create table tenants (
    id                uuid primary key,
    name              text not null unique,
    quota_servers     int8 not null,
    quota_memory_mib  int8 not null,
    quota_disk_mib    int8 not null,
    created_at        timestamptz not null default now()
);

create table steads (
    id          uuid primary key,
    tenant_id   uuid not null references tenants,
    name        text not null,
    app         text not null,
    -- Counts edits of any component of it: the entity tag.
    generation  int8 not null default 1,
    created_at  timestamptz not null default now(),
    unique (tenant_id, name)
);

create table components (
    id                     uuid primary key,
    stead_id               uuid not null references steads,
    name                   text not null,
    spec                   jsonb not null,
    generation             int8 not null default 1,
    observed_generation    int8 not null default 0,
    status                 jsonb not null,
    host                   text not null references hosts,
    port                   int4 not null,
    step                   text,
    -- When it is looked at next; never empty, because what nobody looks at drifts.
    wake_at                timestamptz not null default now(),
    -- Counts wake-ups: a worker that finds another number than the one it claimed was overtaken by an edit.
    wakes                  int8 not null default 1,
    lease                  uuid,
    lease_until            timestamptz,
    -- Looks in a row that ended in an error.
    attempt                int4 not null default 0,
    last_error             text,
    deletion_requested_at  timestamptz,
    created_at             timestamptz not null default now(),
    unique (stead_id, name),
    unique (host, port)
);
create index components_due on components (host, wake_at);

-- Texts that specs name by hash (migrations), kept per component so that nothing is shared by tenants.
create table files (
    component_id  uuid not null references components on delete cascade,
    sha256        text not null,
    body          text not null,
    primary key (component_id, sha256)
);

-- Sealed with the installation key, which is not in this database.
create table secrets (
    component_id  uuid not null references components on delete cascade,
    name          text not null,
    sealed        bytea not null,
    version       int8 not null default 1,
    primary key (component_id, name)
);

create table operations (
    id            uuid primary key,
    tenant_id     uuid not null,
    stead         text not null,
    kind          text not null check (kind in ('apply', 'delete', 'rotate')),
    state         text not null default 'running' check (state in ('running', 'succeeded', 'failed')),
    error         text,
    actor         text not null,
    requested_at  timestamptz not null default now(),
    finished_at   timestamptz
);
create index operations_of_tenant on operations (tenant_id, requested_at desc);

-- What an operation waits for: each component at a generation, or gone.
create table operation_targets (
    operation_id  uuid not null references operations on delete cascade,
    component_id  uuid not null,
    component     text not null,
    generation    int8 not null,
    deletes       bool not null,
    state         text not null default 'running' check (state in ('running', 'succeeded', 'failed')),
    error         text,
    primary key (operation_id, component_id)
);
create index operation_targets_open on operation_targets (component_id) where state = 'running';

create table journal (
    id            int8 generated always as identity primary key,
    at            timestamptz not null default clock_timestamp(),
    tenant_id     uuid,
    tenant        text,
    stead         text,
    component     text,
    actor         text not null,
    -- Where the actor came from: an address and a program.
    source        text not null,
    action        text not null,
    outcome       text not null check (outcome in ('done', 'refused', 'noted')),
    reason        text,
    operation_id  uuid,
    -- The payload may have to be erased by law; the salted hash still proves what it was.
    salt          bytea not null,
    payload_hash  bytea not null
);
create index journal_of_tenant on journal (tenant_id, id desc);
create index journal_of_stead on journal (tenant_id, stead, id desc);

create table journal_payloads (
    journal_id  int8 primary key references journal,
    payload     jsonb not null
);

create function refuse_rewriting() returns trigger language plpgsql as $$
begin
    raise exception 'the journal is append-only: % on % is refused', lower(tg_op), tg_table_name
        using errcode = 'restrict_violation';
end
$$;
create trigger append_only before update or delete on journal for each row execute function refuse_rewriting();
create trigger never_emptied before truncate on journal for each statement execute function refuse_rewriting();
create trigger payloads_unchanged before update on journal_payloads for each row execute function refuse_rewriting();
create trigger payloads_never_emptied before truncate on journal_payloads
    for each statement execute function refuse_rewriting();

-- Nothing changes a spec without its line: a line leaves its component's name with the transaction, and a
-- transaction that edits a component without having left its name does not commit.
create function line_written() returns trigger language plpgsql as $$
begin
    if new.component is not null and new.outcome = 'done' then
        perform set_config('stead.lines',
            coalesce(current_setting('stead.lines', true), '') || format('[%s %s %s]', new.tenant_id, new.stead, new.component),
            true);
    end if;
    return null;
end
$$;
create trigger line_written after insert on journal for each row execute function line_written();

create function change_needs_a_line() returns trigger language plpgsql as $$
begin
    if not exists (
        select from steads s where s.id = new.stead_id
        and position(format('[%s %s %s]', s.tenant_id, s.name, new.name) in coalesce(current_setting('stead.lines', true), '')) > 0
    ) then
        raise exception 'a spec changes only together with a line of the journal'
            using errcode = 'restrict_violation';
    end if;
    return null;
end
$$;
create constraint trigger spec_on_record after insert or update of spec, generation, deletion_requested_at
    on components deferrable initially deferred for each row execute function change_needs_a_line();

create table tokens (
    id          uuid primary key,
    name        text not null,
    -- SHA-256 of the token; 256 random bits need no slow hash.
    hash        bytea not null unique,
    -- Absent for tokens of the platform's own people.
    tenant_id   uuid references tenants on delete cascade,
    scope       text not null check (scope in ('operator', 'developer', 'viewer')),
    created_at  timestamptz not null default now(),
    expires_at  timestamptz,
    revoked_at  timestamptz,
    check ((scope = 'operator') = (tenant_id is null))
);

create table idempotency_keys (
    token_id      uuid not null references tokens on delete cascade,
    key           text not null,
    request_hash  bytea not null,
    status        int4,
    response      jsonb,
    created_at    timestamptz not null default now(),
    primary key (token_id, key)
);

-- How far the files that data planes write were imported.
create table spool_positions (
    host    text not null,
    file    text not null,
    inode   int8 not null,
    "offset" int8 not null,
    primary key (host, file)
);

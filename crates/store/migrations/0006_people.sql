-- Who signs in to the console, what they are in which tenant, and their sessions.

create table people (
    id            uuid primary key,
    -- What the journal calls them: an e-mail address, in lower case.
    name          text not null,
    -- Who they are to the company's identity provider; absent for a local account.
    issuer        text,
    subject       text,
    -- Argon2id in PHC notation; absent where none was chosen yet, and for people of the identity provider.
    password      text,
    -- The secret of the second factor, sealed with the installation key; in force once confirmed.
    totp          bytea,
    totp_confirmed bool not null default false,
    -- The last time step whose code was taken: a code counts once.
    totp_step     int8 not null default 0,
    -- SHA-256 of the codes that stand in for a lost second factor; each counts once.
    recovery      bytea[] not null default '{}',
    staff         text check (staff in ('operator', 'support')),
    -- Whether the identity provider gave that role, and may take it.
    staff_provided bool not null default false,
    -- Wrong passwords and codes in a row, and until when no other is looked at.
    failures      int4 not null default 0,
    locked_until  timestamptz,
    created_at    timestamptz not null default now(),
    signed_in_at  timestamptz,
    check ((issuer is null) = (subject is null)),
    unique (issuer, subject)
);
-- A local account is told by its name; the identity provider may well know somebody by the same.
create unique index people_local on people (name) where issuer is null;

create table members (
    person_id  uuid not null references people on delete cascade,
    tenant_id  uuid not null references tenants on delete cascade,
    role       text not null check (role in ('owner', 'developer', 'auditor', 'viewer')),
    -- Whether the identity provider gave it, and may take it.
    provided   bool not null default false,
    since      timestamptz not null default now(),
    primary key (person_id, tenant_id)
);
create index members_of_tenant on members (tenant_id);

create table sessions (
    id          uuid primary key,
    person_id   uuid not null references people on delete cascade,
    -- SHA-256 of the cookie; 256 random bits need no slow hash. It changes now and then, and the one before it
    -- holds for some seconds more, for requests that were on their way.
    hash        bytea not null unique,
    former      bytea,
    rotated_at  timestamptz not null default now(),
    source      text not null,
    -- What the identity provider wants to hear when they sign out, sealed.
    id_token    bytea,
    created_at  timestamptz not null default now(),
    seen_at     timestamptz not null default now(),
    expires_at  timestamptz not null
);
create index sessions_former on sessions (former) where former is not null;
create index sessions_of_person on sessions (person_id);

-- Links that make an account, or sign somebody in once.
create table invitations (
    id          uuid primary key,
    hash        bytea not null unique,
    name        text not null,
    tenant_id   uuid references tenants on delete cascade,
    role        text not null check (role in ('operator', 'support', 'owner', 'developer', 'auditor', 'viewer')),
    -- Whether it signs in by itself, without a password to choose.
    once        bool not null default false,
    made_by     text not null,
    made_at     timestamptz not null default now(),
    expires_at  timestamptz not null,
    check ((role in ('operator', 'support')) = (tenant_id is null))
);
create index invitations_of_tenant on invitations (tenant_id);

alter table tokens drop constraint tokens_scope_check;
alter table tokens drop constraint tokens_check;
alter table tokens add constraint tokens_scope_check
    check (scope in ('operator', 'support', 'owner', 'developer', 'auditor', 'viewer'));
alter table tokens add constraint tokens_tenant_check check ((scope in ('operator', 'support')) = (tenant_id is null));

-- SQL that people ran in the console, for themselves to look at again. That it was run is in the journal, for
-- everybody who may read that.
create table queries (
    id            uuid primary key,
    tenant_id     uuid not null references tenants on delete cascade,
    stead         text not null,
    component     text not null,
    -- Who, and who it is in the journal.
    person        text not null,
    actor         text not null,
    source        text not null,
    role          text not null,
    read_only     bool not null,
    started_at    timestamptz not null default clock_timestamp(),
    -- By then it is over, whatever became of the process that ran it.
    ends_by       timestamptz not null,
    outcome       text check (outcome in ('done', 'failed', 'cancelled', 'cut_off', 'lost')),
    sqlstate      text,
    duration_ms   int8,
    rows          int8,
    bytes         int8,
    -- Sealed with the installation key: a text may hold secrets. Cut where it is long.
    sealed        bytea not null,
    cut           bool not null,
    -- Of the whole text, with a key that is not here: it proves a text, and nobody can guess one with it.
    text_hash     text not null
);
create index queries_of_person on queries (tenant_id, person, started_at desc, id desc);
create index queries_open on queries (ends_by) where outcome is null;
create index queries_by_age on queries (started_at);

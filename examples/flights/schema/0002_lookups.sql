-- What the questions in this folder look up.
create index flights_weather on flights (origin, time_hour);
create index flights_dest on flights (dest);
create index flights_tailnum on flights (tailnum) where tailnum is not null;
-- `name ilike '%kennedy%'`
create index airports_name on airports using gin (name gin_trgm_ops);

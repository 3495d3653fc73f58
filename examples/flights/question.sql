-- You fly from New York and must not be late. Which airline do you take from each airport,
-- and does it keep its word when the weather is bad?
--
-- On time: arrived at most 15 minutes late; a cancelled or diverted flight was not on time.
-- Bad weather: rain or snow, or one can see less than three miles.
with flown as (
    select f.origin, f.carrier,
           coalesce(f.arr_delay <= 15, false) as on_time,
           w.precip > 0 or w.visib < 3 as bad_weather
    from flights f
    left join weather w using (origin, time_hour)
), airline as (
    select origin, carrier, count(*) as flights,
           100.0 * count(*) filter (where on_time) / count(*) as on_time,
           100.0 * count(*) filter (where on_time and bad_weather)
                 / nullif(count(*) filter (where bad_weather), 0) as on_time_in_bad_weather,
           row_number() over (partition by origin
                              order by count(*) filter (where on_time) / count(*)::numeric desc) as best
    from flown
    group by origin, carrier
    having count(*) >= 1000
)
select p.name as airport, a.name as airline, flights,
       round(on_time, 1) as "on time %",
       round(on_time_in_bad_weather, 1) as "in bad weather %"
from airline
join airports p on p.faa = origin
join airlines a using (carrier)
where best <= 2
order by p.name, best;

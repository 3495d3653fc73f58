// One connection a worker: Stead's pool shares few of them among many workers. Where it leads and as whom is in the
// environment that every function with `uses` has; no password is.
import pg from "pg";

const pool = new pg.Pool({ max: 1 });

export const rows = async (text, values) => (await pool.query(text, values)).rows;

// Delays of a carrier by the airport that it leaves from, or of all carriers.
export const delays = (carrier) =>
  rows(
    `select coalesce(a.name, f.carrier) as carrier, f.origin, count(*)::int as flights,
            round(avg(f.dep_delay)::numeric, 1)::float8 as minutes,
            round(100 * avg((f.dep_delay > 15)::int), 1)::float8 as late_percent
     from flights f left join airlines a using (carrier)
     where $1::text is null or f.carrier = $1
     group by 1, 2 order by 1, 2`,
    [carrier ?? null],
  );

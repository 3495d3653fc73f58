// GET /delays?carrier=UA, GET /routes?origin=JFK, GET /reports
import { delays, rows } from "./db.mjs";

const answer = (statusCode, body) => ({
  statusCode,
  headers: { "content-type": "application/json", "cache-control": "no-store" },
  body: JSON.stringify(body),
});

const routes = {
  "/delays": ({ carrier }) => delays(carrier),
  "/routes": ({ origin = "JFK" }) =>
    rows(
      `select dest, count(*)::int as flights, round(avg(air_time)::numeric)::int as minutes
       from flights where origin = $1 group by dest order by flights desc, dest limit 20`,
      [origin],
    ),
  "/reports": () => rows("select made_at, month, flights, late_percent from reports order by made_at desc, month limit 24"),
};

export const handler = async (event) => {
  const route = routes[event.rawPath];
  if (!route) return answer(404, { error: `there is no ${event.rawPath}`, paths: Object.keys(routes) });
  return answer(200, await route(event.queryStringParameters ?? {}));
};

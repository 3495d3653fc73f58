// A page of delays, made on the server: no script runs in the browser.
import { delays } from "./db.mjs";

const escape = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

const row = ({ carrier, origin, flights, minutes, late_percent: late }) => `
  <tr><td>${escape(carrier)}<td>${escape(origin)}<td class="n">${flights.toLocaleString("en")}
  <td class="n">${minutes ?? "–"}<td><meter min="0" max="100" value="${late ?? 0}">${late} %</meter> ${late ?? "–"} %</tr>`;

const page = (found, carrier) => `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Delays of 2013</title>
<style>
  body { font: 1rem/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; color-scheme: light dark }
  table { border-collapse: collapse; width: 100% }
  th, td { text-align: left; padding: .25rem .5rem; border-bottom: 1px solid #8884 }
  .n { text-align: right }
</style>
<h1>Delays of 2013${carrier ? ` of ${escape(carrier)}` : ""}</h1>
<form><label>Carrier <input name="carrier" size="3" maxlength="3" value="${escape(carrier ?? "")}"></label> <button>Show</button></form>
<table>
<thead><tr><th>Carrier<th>From<th class="n">Flights<th class="n">Minutes late, on average<th>More than 15 minutes late</tr></thead>
<tbody>${found.map(row).join("")}</tbody>
</table>
</html>`;

export const handler = async (event) => {
  const carrier = event.queryStringParameters?.carrier?.toUpperCase() || undefined;
  return {
    statusCode: 200,
    headers: {
      "content-type": "text/html; charset=utf-8",
      "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'",
    },
    body: page(await delays(carrier), carrier),
  };
};

"""How late each month was, written down once a day: `reports` in the database, and a line in the log."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "vendor"))

import pg8000.native  # noqa: E402

WRITE = """
    insert into reports (month, flights, late_percent)
    select extract(month from time_hour at time zone 'America/New_York'), count(*),
           round(100 * avg((dep_delay > 15)::int), 1)
    from flights group by 1
    returning month, flights, late_percent
"""


def handler(event, context):
    # Where it leads and as whom is in the environment that every function with `uses` has; no password is.
    database = pg8000.native.Connection(
        os.environ["PGUSER"],
        host=os.environ["PGHOST"],
        port=int(os.environ["PGPORT"]),
        database=os.environ["PGDATABASE"],
        password=os.environ.get("PGPASSWORD"),
    )
    try:
        months = database.run(WRITE)
    finally:
        database.close()
    worst = max(months, key=lambda month: month[2] or 0, default=None)
    print(f"{len(months)} months written down; the worst was month {worst[0]} with {worst[2]} % late" if worst else "no flights yet")
    return {"months": len(months), "worst": worst and worst[0]}

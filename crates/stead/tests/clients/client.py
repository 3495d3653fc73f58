"""psycopg 3 against a server: argv[1] is its URL, argv[2] the URL with a wrong password."""
import datetime
import decimal
import sys

import psycopg

url, wrong = sys.argv[1:]

with psycopg.connect(url, autocommit=True, application_name="psycopg") as db:
    row = db.execute(
        "select %s::int + 1, %s::numeric, %s::timestamptz, %s::text[], %s::jsonb",
        (41, decimal.Decimal("1.50"), datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc), ["ä", "b"], '{"a": [1]}'),
    ).fetchone()
    assert row[0] == 42 and row[1] == decimal.Decimal("1.50") and row[2].year == 2026, row
    assert row[3] == ["ä", "b"] and row[4] == {"a": [1]}, row
    try:
        db.execute("select 1 / 0")
        raise SystemExit("no error")
    except psycopg.Error as error:
        assert error.sqlstate == "22012", error.sqlstate
    db.execute("create table of_python (n int)")
    with db.transaction():
        db.execute("insert into of_python values (1)")
    try:
        with db.transaction():
            db.execute("insert into of_python values (2)")
            raise KeyError("back")
    except KeyError:
        pass
    assert db.execute("select array_agg(n) from of_python").fetchone() == ([1],)
    for n in range(20):
        assert db.execute("select %s::int * 2", (n,), prepare=True).fetchone() == (2 * n,)
    with db.pipeline():
        cursors = [db.execute("select %s::int", (n,)) for n in range(50)]
    assert [cursor.fetchone()[0] for cursor in cursors] == list(range(50))
    with db.cursor().copy("copy of_python from stdin") as copy:
        for n in range(1000):
            copy.write_row((n,))
    assert db.execute("select count(*) from of_python").fetchone() == (1001,)
    db.execute("listen news")
    db.execute("notify news, 'hello'")
    assert next(db.notifies(timeout=30)).payload == "hello"
    db.execute("drop table of_python")

try:
    psycopg.connect(wrong)
    raise SystemExit("the wrong password was taken")
except psycopg.OperationalError as error:
    assert "password authentication failed" in str(error), error
print("well")

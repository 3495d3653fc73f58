// node-postgres against a server: argv[2] is its URL, argv[3] the URL with a wrong password.
const assert = require("node:assert");
const { Client } = require("pg");

const settings = (connectionString) => ({ connectionString, enableChannelBinding: true, application_name: "node pg" });

async function main(url, wrong) {
  const db = new Client(settings(url));
  await db.connect();
  const { rows } = await db.query("select $1::int + 1 as n, $2::text[] as words, $3::jsonb as json, $4::timestamptz as at", [
    41, ["ä", "b"], { a: [1] }, new Date("2026-01-02T03:04:05Z"),
  ]);
  assert.deepStrictEqual(rows[0].n, 42);
  assert.deepStrictEqual(rows[0].words, ["ä", "b"]);
  assert.deepStrictEqual(rows[0].json, { a: [1] });
  assert.strictEqual(rows[0].at.toISOString(), "2026-01-02T03:04:05.000Z");
  await assert.rejects(db.query("select 1 / 0"), { code: "22012" });
  await db.query("create table of_node (n int)");
  await db.query("begin");
  await db.query("insert into of_node values (1)");
  await db.query("commit");
  await db.query("begin");
  await db.query("insert into of_node values (2)");
  await db.query("rollback");
  assert.deepStrictEqual((await db.query("select array_agg(n) as all from of_node")).rows, [{ all: [1] }]);
  for (let n = 0; n < 20; n++) {
    const twice = await db.query({ name: "twice", text: "select $1::int * 2 as twice", values: [n] });
    assert.strictEqual(twice.rows[0].twice, 2 * n);
  }
  const heard = new Promise((resolve) => db.on("notification", resolve));
  await db.query("listen news");
  await db.query("notify news, 'hello'");
  assert.strictEqual((await heard).payload, "hello");
  await db.query("drop table of_node");
  await db.end();
  await assert.rejects(new Client(settings(wrong)).connect(), { code: "28P01" });
  console.log("well");
}

main(process.argv[2], process.argv[3]).catch((error) => {
  console.error(error);
  process.exit(1);
});

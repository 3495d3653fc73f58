//! Every built-in type as a value, in text and in binary.

use super::script::Script;

/// Expressions whose value depends on nothing; a type that an engine lacks is an error, equal on both ways.
const VALUES: &[&str] = &[
    "true, false, null::bool",
    "'\\x00ff10'::bytea, ''::bytea, null::bytea",
    "'x'::\"char\", 'a name'::name, 'c'::char, 'abc'::char(5), 'abc'::varchar(5), 'abc'::text, ''::text",
    "'\u{e9}\u{20ac}\u{1f600}'::text, E'tab\\tline\\nback\\\\slash'::text, null::text, 'unknown'",
    "'-32768'::int2, 32767::int2, '-2147483648'::int4, 2147483647",
    "'-9223372036854775808'::int8, 9223372036854775807",
    "1.5::float4, 'NaN'::float4, 'Infinity'::float4, '-Infinity'::float4, '-0'::float4, 1e-40::float4",
    "0.1::float8, 'NaN'::float8, 'Infinity'::float8, '-Infinity'::float8, '-0'::float8, 1e300::float8",
    "0::numeric, -12345.678900::numeric, 'NaN'::numeric, 'Infinity'::numeric, '-Infinity'::numeric",
    "1e100::numeric, 1e-100::numeric, 12.3::numeric(10, 4), null::numeric",
    "'12.34'::money, '-92233720368547758.08'::money",
    "'<a b=\"c\">d</a>'::xml",
    "'{\"a\": [1, 2.50, null], \"a\": \"\\u00e9\"}'::json, '{\"b\": 1, \"a\": [true]}'::jsonb, 'null'::jsonb",
    "'$.a[*] ? (@ > 1)'::jsonpath, 'strict $.b.c'::jsonpath",
    "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid",
    "'192.168.1.5/24'::inet, '::1'::inet, '10.0.0.0/8'::cidr, '2001:db8::/32'::cidr",
    "'08:00:2b:01:02:03'::macaddr, '08:00:2b:01:02:03:04:05'::macaddr8",
    "B'101'::bit(3), B''::varbit, B'1011001110001111'::varbit",
    "'2024-02-29'::date, 'infinity'::date, '4713-01-01 BC'::date, '24:00:00'::time, '12:34:56.789012'::time",
    "'12:34:56+05:30'::timetz, '2024-02-29 12:34:56.789'::timestamp, '-infinity'::timestamp",
    "'2024-02-29 12:34:56+02'::timestamptz, 'infinity'::timestamptz, '294276-12-31'::timestamptz",
    "'1 year 2 months -3 days 04:05:06.7'::interval, '0'::interval, '-1 month'::interval",
    "'infinity'::interval",
    "'(1,2)'::point, '{1,2,3}'::line, '[(0,0),(1,1)]'::lseg, '(2,2),(0,0)'::box, '[(0,0),(1,1)]'::path",
    "'((0,0),(1,1),(1,0))'::path, '((0,0),(1,1),(1,0))'::polygon, '<(1,2),3>'::circle",
    "'a fat cat:3A'::tsvector, to_tsvector('simple', 'a fat fat cat'), 'fat & (rat | !cat:*)'::tsquery",
    "'[1,5)'::int4range, 'empty'::int4range, '[1.5,)'::numrange, '(,)'::int8range",
    "'[2024-01-01,]'::daterange",
    "'[2024-01-01 00:00+00,2024-01-02 00:00+00)'::tstzrange, '[2024-01-01,]'::tsrange",
    "'{[1,3),[5,8)}'::int4multirange, '{}'::nummultirange, '{[2024-01-01,2024-02-01)}'::datemultirange",
    "array[1, null, 3], '{}'::int4[], array[[1, 2], [3, 4]], '[2:3]={7,8}'::int4[], null::int4[]",
    "array['a', null, 'NULL', 'with \"quotes\"', ''], array[1.5, 'NaN'::numeric], array[true, null]",
    "array['[1,5)'::int4range], array['2024-01-01'::date], array['{\"a\":1}'::jsonb], array['\\x01'::bytea]",
    "row(1, 'two', null, 3.5), row(), row(row(1, 2), array[3])",
    "row(1, 'a \"b\", c')::pair, null::pair, array[row(1, 'x')::pair, null]",
    "'ok'::mood, array['sad', 'ok']::mood[], null::mood, 5::positive, array[5]::positive[]",
    "'pg_class'::regclass, 'pg_catalog.int4'::regtype, 'pg_catalog'::regnamespace, 'now'::regproc",
    "'abs(int4)'::regprocedure, '+(int4,int4)'::regoperator, 'simple'::regdictionary, 'english'::regconfig",
    "1259::oid, 4294967295::oid, '(7,9)'::tid, '42'::xid, '43'::cid, '44'::xid8",
    "'1 2 3'::int2vector, '1 2 3'::oidvector, 'a portal'::refcursor",
    "'16/B374D848'::pg_lsn, '10:20:10,14,15'::txid_snapshot, '10:20:10,14,15'::pg_snapshot",
    "makeaclitem(10, 10, 'SELECT', false)",
    "pg_advisory_unlock_all(), null, null::jsonb, null::uuid, null::interval, null::mood",
    "n, case when n % 2 = 0 then null else n::text end from generate_series(1, 5) n",
    "unnest(array[1, 2, 3]), unnest(array['a', 'b'])",
    "",
    "from generate_series(1, 3)",
];

/// One pipeline of all values, each with its own Sync, in one format.
fn values(name: &'static str, format: i16) -> Script {
    VALUES
        .iter()
        .fold(Script::new(name), |script, value| {
            let script = script.parse("", &format!("select {value}")).describe(b'S', "");
            script.bind("", "", &[], &[format]).describe(b'P', "").execute("", 0).sync()
        })
        .answered()
}

pub(super) fn scripts() -> Vec<Script> {
    let simple = VALUES.iter().map(|value| format!("select {value}")).collect::<Vec<_>>();
    let binary = VALUES.iter().map(|value| format!("declare c binary cursor for select {value}"));
    let cursors = binary.fold(Script::new("values of binary cursors"), |script, declare| {
        script.query("begin").query(&declare).query("fetch all c").query("rollback")
    });
    let styles = "set datestyle = 'german, dmy'; set intervalstyle = 'iso_8601'; \
                  set timezone = 'Asia/Tokyo'; set bytea_output = 'escape'; set extra_float_digits = 0";
    vec![
        values("values in text", 0),
        values("values in binary", 1),
        Script::new("values of simple queries").ask_all(simple.iter().map(String::as_str)),
        Script::new("values in other styles").ask(styles).ask_all(simple.iter().map(String::as_str)),
        cursors.answered(),
    ]
}

//! The pool to a function's servers, before a real PostgreSQL. In place of the gateway stands its inner door alone.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::thread;

use functions::route::{Database, Route};
use keeper::wire::{EngineProgram, Limits, Name, Restart, Runs, Stop, Tree, Unit, UnitState, Wanted};
use serde_json::{Value, json};

use crate::home::{Home, until};

const BIN: &str = "/usr/lib/postgresql/15/bin";
const PASSWORD: &str = "known to the pool alone";

fn unit(home: &Home, name: &str, program: EngineProgram, args: &[&str], restart: Restart) -> Name {
    let tree = Tree::Servers(Name::parse("s1").unwrap());
    let unit = Unit {
        name: Name::parse(name).unwrap(),
        generation: 1,
        wanted: Wanted::Running,
        runs: Runs::Engine { tree, bin: BIN.into(), program },
        args: args.iter().map(ToString::to_string).collect(),
        env: Default::default(),
        limits: Limits::default(),
        stop: Stop::default(),
        restart,
        sleeps: false,
    };
    home.client.declare(&unit).unwrap();
    home.client.apply(&unit.name).unwrap();
    unit.name
}

/// A running server with a role `app` that needs its password, and a database of that name.
pub(crate) fn server(home: &Home) {
    let tree = Tree::Servers(Name::parse("s1").unwrap());
    home.client.create_tree(&tree).unwrap();
    let args =
        ["-D", "/stead/data", "-U", "postgres", "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8"];
    let init = unit(home, "init", EngineProgram::Initdb, &args, Restart::Never);
    until("initdb is done", || {
        let state = home.client.unit(&init).unwrap().unwrap().state;
        matches!(state, UnitState::Exited { code: Some(0), .. }).then_some(())
    });
    let folder = keeper::tree_dir(&home.path, &tree);
    let conf =
        "unix_socket_directories = '/stead/run'\nlisten_addresses = ''\nfsync = off\nmax_connections = 20\n";
    let path = folder.join("data/postgresql.conf");
    fs::write(&path, fs::read_to_string(&path).unwrap() + conf).unwrap();
    fs::write(folder.join("data/pg_hba.conf"), "local all app scram-sha-256\nlocal all all trust\n").unwrap();
    unit(home, "pg", EngineProgram::Postgres, &["-D", "/stead/data"], Restart::Always);
    until("the server answers", || admin(home, "postgres", "select 1").ok());
    admin(home, "postgres", &format!("create role app login password '{PASSWORD}'")).unwrap();
    admin(home, "postgres", "create database app owner app").unwrap();
    door(home, folder.join("run/.s.PGSQL.5432"));
}

/// What the server answers its owner.
pub(crate) fn admin(home: &Home, database: &str, sql: &str) -> Result<String, String> {
    let tree = Tree::Servers(Name::parse("s1").unwrap());
    let socket = keeper::tree_dir(&home.path, &tree).join("run");
    let mut command = Command::new(format!("{BIN}/psql"));
    command.args(["-XAtq", "-U", "postgres", "-d", database, "-c", sql, "-h"]).arg(socket);
    let done = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim_end().to_owned();
    if done.status.success() { Ok(text(done.stdout)) } else { Err(text(done.stderr)) }
}

/// The inner door: a call, then the server's own protocol.
fn door(home: &Home, socket: std::path::PathBuf) {
    let path = home.path.join("gateway/inner.sock");
    let listener = UnixListener::bind(&path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut length = [0; 4];
            client.read_exact(&mut length).unwrap();
            let mut call = vec![0; u32::from_be_bytes(length).try_into().unwrap()];
            client.read_exact(&mut call).unwrap();
            let call: Value = serde_json::from_slice(&call).unwrap();
            assert_eq!((&call["server"], &call["who"]), (&json!("s1"), &json!("function f1")));
            let server = UnixStream::connect(&socket).unwrap();
            for (mut from, mut to) in [
                (client.try_clone().unwrap(), server.try_clone().unwrap()),
                (server.try_clone().unwrap(), client.try_clone().unwrap()),
            ] {
                thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
}

pub(crate) fn using(home: &Home, connections: u32, files: &[(&str, &str)]) -> Route {
    let mut version = home.version("python3.11", "index.handler", files);
    version.timeout_ms = 20_000;
    version.concurrency = 8;
    let database = Database {
        server: "s1".into(),
        database: "app".into(),
        role: "app".into(),
        password: PASSWORD.into(),
        connections,
    };
    Route { databases: [("main".to_owned(), database)].into(), ..home.route("f1", version) }
}

/// PostgreSQL's protocol in a few lines.
pub(crate) const WIRE: &str = r#"
import os, socket, struct
class Session:
    def __init__(self, database='main', **parameters):
        self.socket = socket.create_connection(('127.0.0.1', 5432))
        self.file = self.socket.makefile('rb')
        self.socket.sendall(struct.pack('!II', 8, 80877103))
        assert self.file.read(1) == b'N'
        texts = b''.join(k.encode() + b'\0' + v.encode() + b'\0' for k, v in {'user': 'app', 'database': database, **parameters}.items())
        self.socket.sendall(struct.pack('!II', len(texts) + 9, 196608) + texts + b'\0')
        self.greeting = self.until(b'Z', b'E')
    def message(self):
        tag = self.file.read(1)
        return tag, self.file.read(struct.unpack('!I', self.file.read(4))[0] - 4) if tag else b''
    def until(self, *last):
        got = [self.message()]
        while got[-1][0] not in (*last, b''):
            got.append(self.message())
        return got
    def send(self, *messages):
        self.socket.sendall(b''.join(tag + struct.pack('!I', len(body) + 4) + body for tag, body in messages))
    def query(self, sql):
        self.send((b'Q', sql.encode() + b'\0'))
        return answer(self.until(b'Z'))
    def ask(self, *messages):
        self.send(*messages, (b'S', b''))
        return answer(self.until(b'Z'))
def parse(name, sql): return (b'P', name.encode() + b'\0' + sql.encode() + b'\0\0\0')
def bind(name): return (b'B', b'\0' + name.encode() + b'\0' + struct.pack('!HHH', 0, 0, 0))
def describe(name): return (b'D', b'S' + name.encode() + b'\0')
def close(name): return (b'C', b'S' + name.encode() + b'\0')
EXECUTE = (b'E', b'\0' + struct.pack('!I', 0))
def answer(messages):
    tags = ''.join(tag.decode() for tag, _ in messages)
    rows = [body[6:].decode() for tag, body in messages if tag == b'D']
    errors = [dict((f[:1], f[1:]) for f in body.decode().split('\0') if f)['C'] for tag, body in messages if tag == b'E']
    return [tags, rows, errors]
"#;

fn run(home: &Home, connections: u32, code: &str) -> Value {
    home.put(&using(home, connections, &[("wire.py", WIRE), ("index.py", code)]));
    let response = home.invoke("f1", &[], "null");
    assert_eq!(response.header("x-amz-function-error"), None, "{}\n{}", response.text(), home.log());
    response.json()
}

#[test]
fn psql_finds_its_way_by_the_environment() {
    let home = Home::new();
    server(&home);
    let code = "import os, subprocess
def handler(event, context):
    out = subprocess.run(['/usr/lib/postgresql/15/bin/psql', '-XAt', os.environ['DATABASE_URL'], '-c', 'select current_user, current_database()'], capture_output=True, text=True)
    return out.stdout + out.stderr";
    assert_eq!(run(&home, 1, code), "app|app\n");
}

#[test]
fn many_sessions_share_few_connections_transaction_by_transaction() {
    let home = Home::new();
    server(&home);
    let code = "from wire import *
def handler(event, context):
    many = [Session() for _ in range(20)]
    pids = {session.query('select pg_backend_pid()')[1][0] for session in many for _ in range(3)}
    first, second = many[:2]
    first.query('begin')
    mine = {first.query('select pg_backend_pid()')[1][0] for _ in range(5)}
    other = second.query('select pg_backend_pid()')[1][0]
    first.query('commit')
    failed = first.query('select 1/0')
    return [len(pids) <= 2, len(mine), other not in mine, failed, first.query('select 7')]";
    let expected = json!([true, 1, true, ["EZ", [], ["22012"]], ["TDCZ", ["7"], []]]);
    assert_eq!(run(&home, 2, code), expected);
}

#[test]
fn prepared_statements_follow_their_session() {
    let home = Home::new();
    server(&home);
    let code = "from wire import *
def handler(event, context):
    a, b, c = Session(), Session(), Session()
    out = []
    out.append(a.ask(parse('one', 'select 1'), bind('one'), EXECUTE))
    out.append(b.ask(parse('one', 'select 2'), describe('one'), bind('one'), EXECUTE))
    # The same text again, under another name, in another session: it is there already.
    out.append(c.ask(parse('other', 'select 1'), describe('other')))
    # Another connection, as the first is busy.
    b.query('begin')
    out.append(a.ask(bind('one'), EXECUTE))
    a.query('begin')
    b.query('commit')
    out.append(b.ask(bind('one'), EXECUTE, bind('one'), EXECUTE))
    a.query('commit')
    # Unnamed ones are nobody else's.
    a.ask(parse('', 'select 10'))
    b.ask(parse('', 'select 20'))
    out.append(a.ask(bind(''), EXECUTE))
    # Errors, in the middle of a pipeline and before its end.
    out.append(a.ask(parse('bad', 'selec'), bind('bad'), EXECUTE))
    a.send(parse('bad', 'selec'), (b'H', b''))
    a.until(b'E')
    out.append(a.ask(bind('one'), EXECUTE))
    out.append(a.ask(bind('one'), EXECUTE))
    out.append(a.ask(close('one'), bind('one')))
    c.query('discard all')
    out.append(b.ask(bind('one'), EXECUTE))
    return out";
    let expected = json!([
        ["12DCZ", ["1"], []],
        ["1tT2DCZ", ["2"], []],
        ["1tTZ", [], []],
        ["2DCZ", ["1"], []],
        ["2DC2DCZ", ["2", "2"], []],
        ["2DCZ", ["10"], []],
        ["EZ", [], ["42601"]],
        ["Z", [], []],
        ["2DCZ", ["1"], []],
        ["3EZ", [], ["26000"]],
        ["2DCZ", ["2"], []],
    ]);
    assert_eq!(run(&home, 2, code), expected);
}

#[test]
fn much_goes_both_ways_at_once_and_a_statement_can_be_cancelled() {
    let home = Home::new();
    server(&home);
    let code = "from wire import *
import threading, time
def handler(event, context):
    a = Session()
    # More than fits anywhere, up and down at the same time.
    sql = \"select repeat('x', 100000) || '\" + 'y' * 100000 + \"'\"
    def write():
        for _ in range(50): a.send((b'Q', sql.encode() + b'\\0'))
    writer = threading.Thread(target=write); writer.start()
    rows = 0
    for _ in range(50): rows += answer(a.until(b'Z'))[0].count('D')
    writer.join()
    key = next(body for tag, body in a.greeting if tag == b'K')
    def cancel():
        while True:
            time.sleep(0.1)
            stream = socket.create_connection(('127.0.0.1', 5432))
            stream.sendall(struct.pack('!II', 16, 80877102) + key)
            stream.close()
            if done: return
    done = []
    canceller = threading.Thread(target=cancel); canceller.start()
    slept = a.query('select pg_sleep(20)')
    done.append(1); canceller.join()
    unknown = Session('elsewhere').greeting[0][1].decode()
    return [rows, slept, 'C3D000' in unknown, Session('main', application_name='me').query('show application_name')[1]]";
    let result = run(&home, 3, code);
    assert_eq!(result, json!([50, ["TEZ", [], ["57014"]], true, ["me"]]));
}

#[test]
fn who_finds_no_connection_free_is_told() {
    let home = Home::new();
    server(&home);
    let code = "from wire import *
def handler(event, context):
    a, b = Session(), Session()
    a.query('begin')
    b.send((b'Q', b'select 1\\0'))
    return answer(b.until(b'Z', b'E'))";
    assert_eq!(run(&home, 1, code), json!(["E", [], ["53300"]]));
}

/// A statement goes on at a server that nobody has told that its client is gone.
#[test]
fn who_is_ended_in_the_middle_leaves_the_connection_to_the_next() {
    let home = Home::new();
    server(&home);
    admin(&home, "postgres", "alter role app connection limit 2").unwrap();
    let code = "from wire import *
def handler(event, context):
    session = Session()
    if event: session.query('begin')
    return session.query('select pg_sleep(%d)' % event)[2]";
    let mut route = using(&home, 2, &[("wire.py", WIRE), ("index.py", code)]);
    route.versions.get_mut(&1).unwrap().timeout_ms = 1500;
    home.put(&route);
    let mut calls: Vec<_> = (0..6).map(|_| home.send("f1", &[], "60")).collect();
    for call in &mut calls {
        assert_eq!(call.try_read().unwrap().json()["errorType"], "Sandbox.Timedout");
    }
    for _ in 0..4 {
        let response = home.invoke("f1", &[], "0");
        assert_eq!(response.json(), json!([]), "{}", response.text());
    }
    let sql = "select count(*) from pg_stat_activity where query like '%pg_sleep(60)%' and usename = 'app'";
    until("nothing goes on", || (admin(&home, "postgres", sql).unwrap() == "0").then_some(()));
}

/// One that asked for other settings makes room for the next, and is gone before that comes.
#[test]
fn connections_with_other_settings_make_room() {
    let home = Home::new();
    server(&home);
    admin(&home, "postgres", "alter role app connection limit 1").unwrap();
    let code = "from wire import *
def handler(event, context):
    out = []
    for n in range(60):
        session = Session(application_name=str(n))
        out += [session.greeting[-1][0].decode()] + session.query('show application_name')[1]
        session.socket.close()
    return out == [x for n in range(60) for x in ('Z', str(n))] or out";
    assert_eq!(run(&home, 1, code), true);
}

/// Copies a folder into a package that was made.
fn add(home: &Home, package: &str, from: &std::path::Path) {
    let to = home.path.join("packages").join(package);
    let done = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status().unwrap();
    assert!(done.success());
}

/// Where the client libraries are: `python` as pip installs with `--target` (asyncpg, pg8000, psycopg), `node` with a
/// `node_modules` of npm's (pg, postgres). Without the variable there is nothing to test with.
fn clients() -> Option<std::path::PathBuf> {
    std::env::var_os("STEAD_TEST_FUNCTION_CLIENTS").map(Into::into)
}

#[test]
fn pythons_libraries_work_as_they_are() {
    let Some(clients) = clients() else { return };
    let home = Home::new();
    server(&home);
    let code = "import asyncio, os, asyncpg, pg8000.native, psycopg
async def with_asyncpg():
    pool = await asyncpg.create_pool(os.environ['DATABASE_URL'], min_size=5, max_size=10)
    async def one(n):
        async with pool.acquire() as c:
            async with c.transaction():
                return await c.fetchval('select $1::int + $2::int', n, 1) + await c.fetchval('select $1::int', n)
    sums = await asyncio.gather(*(one(n) for n in range(200)))
    await pool.close()
    return sum(sums)
def handler(event, context):
    first = asyncio.run(with_asyncpg())
    many = [pg8000.native.Connection('app', host='127.0.0.1', database='main', password='x') for _ in range(4)]
    second = sum(c.run('select :n::int', n=n)[0][0] for n in range(20) for c in many)
    third = 0
    sessions = [psycopg.connect('host=127.0.0.1 dbname=main', prepare_threshold=1) for _ in range(4)]
    for n in range(20):
        for c in sessions:
            third += c.execute('select %s::int', (n,)).fetchone()[0]
            c.commit()
    with sessions[0].pipeline():
        cursors = [sessions[0].execute('select %s::int', (n,)) for n in range(10)]
    third += sum(cursor.fetchone()[0] for cursor in cursors)
    return [first, second, third]";
    let route = using(&home, 2, &[("index.py", code)]);
    add(&home, &route.versions[&1].package, &clients.join("python"));
    home.put(&route);
    let response = home.invoke("f1", &[], "null");
    assert_eq!(response.text(), "[40000, 760, 805]", "{}", home.log());
}

#[test]
fn nodes_libraries_work_as_they_are() {
    let Some(clients) = clients() else { return };
    let home = Home::new();
    server(&home);
    let code = "import pg from 'pg'; import postgres from 'postgres';
export const handler = async () => {
  const pool = new pg.Pool({ max: 10, ssl: false });
  const one = async (n) => (await pool.query({ name: 'sum', text: 'select $1::int + 1 as n', values: [n] })).rows[0].n;
  const first = await Promise.all(Array.from({ length: 200 }, (_, n) => one(n)));
  const plain = (await pool.query('select $1::text as t', ['x'])).rows[0].t;
  await pool.end();
  const sql = postgres(process.env.DATABASE_URL, { max: 8 });
  const second = await Promise.all(Array.from({ length: 200 }, (_, n) => sql`select ${n}::int as n`.then((rows) => rows[0].n)));
  const third = await sql.begin(async (sql) => (await sql`select ${1}::int as n`)[0].n + (await sql`select ${2}::int as n`)[0].n);
  await sql.end();
  const add = (a, b) => a + b;
  return [first.reduce(add), plain, second.reduce(add), third];
}";
    let mut route = using(&home, 2, &[("index.mjs", code)]);
    let version = route.versions.get_mut(&1).unwrap();
    version.runtime = "nodejs20.x".to_owned();
    add(&home, &version.package, &clients.join("node"));
    home.put(&route);
    let response = home.invoke("f1", &[], "null");
    assert_eq!(response.json(), json!([20100, "x", 19900, 3]), "{}", home.log());
}

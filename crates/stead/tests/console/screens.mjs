// Every screen of the console in every state (empty, loading, error, live), judged by axe at two widths, light and dark, and
// live by Lighthouse. Whoever runs it kills and starts the control plane when asked to, by a line on standard output.
import { createHmac } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { broke, end, fail, judge, lighthouse, visitor, wrong } from './browser.mjs';

const { CONSOLE, LINK } = process.env;
const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
/** Has something done outside, and waits until it is. */
const outside = async (what) => { console.log(`do ${what}`); await answers.next(); };

/** What a form shows once it was sent, for as long as no answer comes: what it would have sent is held back for good. */
const loading = async (page, name, button) => {
  await page.evaluate(() => window.addEventListener('submit', (event) => event.preventDefault()));
  await page.click(button);
  await page.waitForSelector('form[aria-busy=true]');
  await judge(page, `${name}-loading`);
};
const at = (page, path) => page.goto(`${CONSOLE}${path}`);
const sees = (page, text) => page.waitForSelector(`main >> text=${text}`);
const shown = (page) => page.url().slice(CONSOLE.length);

/** The code that an app for one-time codes shows, so many periods from now. */
const code = (secret, later) => {
  const bits = [...secret.replace(/=+$/, '')].map((c) => 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'.indexOf(c).toString(2).padStart(5, '0')).join('');
  const key = Buffer.from(bits.match(/.{8}/g).map((byte) => parseInt(byte, 2)));
  const count = Buffer.alloc(8);
  count.writeBigUInt64BE(BigInt(Math.floor(Date.now() / 30_000) + later));
  const digest = createHmac('sha1', key).update(count).digest();
  const from = digest[19] & 15;
  return String((digest.readUInt32BE(from) & 0x7fffffff) % 1_000_000).padStart(6, '0');
};

/** Judges a screen that is as it is most of the time, by Lighthouse too. */
let live = 0;
const isLive = async (page, name) => {
  await judge(page, `${name}-live`);
  await lighthouse(page, name);
  live += 1;
};

const staff = await visitor();
const ann = await visitor();
let page = staff;
try {
  // Nobody is signed in yet.
  page = ann;
  await at(ann, '/sign-in');
  await isLive(ann, 'sign-in');
  await ann.fill('#name', 'ann@acme.example');
  await ann.fill('#password', 'not the password');
  await loading(ann, 'sign-in', 'main button');
  await at(ann, '/sign-in');
  await ann.fill('#name', 'ann@acme.example');
  await ann.fill('#password', 'not the password');
  await ann.click('main button');
  await ann.waitForSelector('[role=alert]');
  await judge(ann, 'sign-in-error');
  await at(ann, '/invitations/nonsense');
  await judge(ann, 'invitation-error');

  // Whoever runs this Stead comes by a link that counts once; nothing is there yet.
  page = staff;
  await staff.goto(LINK);
  await judge(staff, 'link-live');
  await staff.click('main button');
  await sees(staff, 'No steads yet');
  await judge(staff, 'fleet-empty');
  await at(staff, '/tenants/acme');
  await judge(staff, 'steads-empty');
  await at(staff, '/tenants/acme/timeline?q=nothing+of+that+name');
  await sees(staff, 'Nothing fits');
  await judge(staff, 'timeline-empty');
  await at(staff, '/tenants/acme/audit?q=nothing+of+that+name');
  await judge(staff, 'audit-empty');
  await at(staff, '/tenants/acme/logs');
  await sees(staff, 'No lines in this time');
  await judge(staff, 'logs-empty');
  await at(staff, '/tenants/acme/members');
  await sees(staff, 'No members yet');
  await judge(staff, 'members-empty');
  for (const gone of ['/tenants/nobody', '/tenants/acme/steads/nobody', '/tenants/acme/runs/nobody', '/tenants/acme/timeline/0',
    '/tenants/acme/steads/nobody/components/postgres.main/database', '/nowhere']) {
    await at(staff, gone);
    await judge(staff, `${gone.slice(1).replaceAll('/', '-')}-error`);
  }

  // Members, one of a name that is written from right to left and one of a long one.
  const invite = async (name, role) => {
    await at(staff, '/tenants/acme/members');
    await staff.fill('#name', name);
    await staff.selectOption('#role', role);
    await staff.click('main form.card button');
    await staff.waitForSelector('main .note');
    return staff.textContent('main .note code').catch(() => '');
  };
  const link = await invite('ann@acme.example', 'owner');
  await invite(`${'a-very-long-name-'.repeat(8)}@a-company-with-a-long-name.example`, 'viewer');
  await isLive(staff, 'members');
  await staff.fill('#name', 'nobody@localhost');
  await staff.evaluate(() => { document.querySelector('#name').type = 'text'; document.querySelector('#name').value = 'two words'; });
  await staff.click('main form.card button');
  await staff.waitForSelector('#invite-error');
  await judge(staff, 'members-error');
  await staff.fill('#name', 'bob@acme.example');
  await loading(staff, 'members', 'main form.card button');

  // Ann has an account of Stead's own, with a second factor.
  page = ann;
  await ann.goto(link);
  await isLive(ann, 'invitation');
  await ann.fill('#password', 'correct horse battery');
  await ann.fill('#again', 'wrong horse battery');
  await ann.click('main button');
  await ann.waitForSelector('[role=alert]');
  await judge(ann, 'invitation-refused-error');
  await ann.fill('#password', 'correct horse battery');
  await ann.fill('#again', 'correct horse battery');
  await loading(ann, 'invitation', 'main button');
  await ann.goto(link);
  await ann.fill('#password', 'correct horse battery');
  await ann.fill('#again', 'correct horse battery');
  await ann.click('main button');
  await ann.waitForURL(/tenants|sign-in/);
  if (shown(ann).startsWith('/sign-in')) {
    await ann.fill('#name', 'ann@acme.example');
    await ann.fill('#password', 'correct horse battery');
    await ann.click('main button');
    await ann.waitForURL(/tenants/);
  }
  await at(ann, '/account');
  await isLive(ann, 'account');
  await ann.fill('#old', 'not the password');
  await ann.fill('#new', 'correct horse staple');
  await ann.fill('#again', 'correct horse staple');
  await ann.click('section[aria-labelledby=change] button');
  await ann.waitForSelector('[role=alert]');
  await judge(ann, 'account-error');
  await at(ann, '/account/second-factor');
  await isLive(ann, 'second-factor');
  await ann.fill('#code', '000000');
  await ann.click('main button');
  await ann.waitForSelector('[role=alert]');
  await judge(ann, 'second-factor-error');
  const secret = (await ann.textContent('main code')).trim();
  await ann.fill('#code', code(secret, 0));
  await ann.click('main button');
  await sees(ann, 'Keep these codes');
  await judge(ann, 'recovery-codes-live');
  await ann.click('header form button');
  await at(ann, '/sign-in');
  await ann.fill('#name', 'ann@acme.example');
  await ann.fill('#password', 'correct horse battery');
  await ann.click('main button');
  await ann.waitForSelector('#code');
  await judge(ann, 'code-live');
  await ann.fill('#code', 'abcdef');
  await ann.click('main button');
  await ann.waitForSelector('[role=alert]');
  await judge(ann, 'code-error');
  await ann.fill('#code', code(secret, 1));
  await loading(ann, 'code', 'main button');
  await at(ann, '/sign-in/code');
  await ann.fill('#code', code(secret, 1));
  await ann.click('main button');
  await ann.waitForURL(/tenants/);
  // A path that an owner may not see.
  await at(ann, '/fleet');
  await judge(ann, 'fleet-of-a-member');

  // A stead.
  page = staff;
  await at(staff, '/tenants/acme/new');
  await isLive(staff, 'new');
  await staff.fill('#name', 'Shop!');
  await staff.click('main button');
  await staff.waitForSelector('[aria-invalid=true]');
  await judge(staff, 'new-error');
  await staff.fill('#name', 'shop');
  await loading(staff, 'new', 'main button');
  await at(staff, '/tenants/acme/new');
  await staff.fill('#name', 'shop');
  await staff.fill('#allow', '127.0.0.0/8\n::1/128');
  await staff.click('main button');
  await staff.waitForSelector('.pill.good');

  // Its settings.
  await staff.click('a[href$="/settings"]');
  await staff.waitForSelector('#allow');
  await isLive(staff, 'settings');
  await staff.fill('#allow', 'everybody');
  await staff.click('main form button');
  await staff.waitForSelector('[role=alert]');
  await judge(staff, 'settings-error');
  await staff.fill('#allow', '127.0.0.0/8\n203.0.113.0/24');
  await staff.click('main form button');
  await sees(staff, 'What would change');
  await judge(staff, 'plan-live');
  await staff.fill('#reason', 'فريق المكتب انتقل: the office moved');
  await loading(staff, 'settings', 'button[name=apply]');
  await at(staff, '/tenants/acme/steads/shop/components/postgres.main/settings');
  await staff.fill('#allow', '127.0.0.0/8\n203.0.113.0/24');
  await staff.click('main form button');
  await staff.fill('#reason', 'فريق المكتب انتقل: the office moved');
  await staff.click('button[name=apply]');
  await staff.waitForSelector('main dl.facts:has-text("203.0.113.0/24")');

  // Its database.
  await staff.click('a[href$="/database"]');
  const database = shown(staff);
  const run = async (sql) => {
    await staff.click('.cm-content');
    await staff.keyboard.press('Control+A');
    await staff.keyboard.insertText(sql);
    await staff.keyboard.press('Escape');
    await staff.click('#run');
    await staff.waitForSelector('#results:not([aria-busy])', { state: 'attached' });
    await staff.waitForSelector('#run:enabled');
  };
  await staff.waitForSelector('.cm-content');
  await sees(staff, 'There is nothing in it yet');
  await staff.click('summary:has-text("Your queries")');
  await sees(staff, 'You have run nothing here yet');
  await judge(staff, 'database-empty');
  await run(`create table customers (id int primary key, "اسم العميل" text, note text);
create table ${'a_very_long_name_'.repeat(3)} (id int references customers);
insert into customers select n, 'عميل ' || n, repeat('word ', n % 40) from generate_series(1, 10000) n;
do $$ begin for n in 1..3000 loop raise log 'line % of many: %', n, repeat('word ', n % 60); end loop; raise warning 'تحذير: the disk of أحمد'; end $$`);
  await sees(staff, 'a_very_long_name_');
  await run('selec 1');
  await staff.waitForSelector('#results .note.bad');
  await judge(staff, 'database-error');
  await staff.click('.cm-content');
  await staff.keyboard.press('Control+A');
  await staff.keyboard.insertText('select pg_sleep(60)');
  await staff.keyboard.press('Escape');
  await staff.keyboard.press('Control+Enter');
  await staff.waitForSelector('#results[aria-busy]', { state: 'attached' });
  await judge(staff, 'database-loading');
  await staff.keyboard.press('Control+.');
  await staff.waitForSelector('#run:enabled');
  await run('select * from customers order by id');
  await staff.waitForSelector('#results table tbody tr');
  await staff.click('main .tree summary:has-text("customers")');
  await isLive(staff, 'database');

  // A lake: of tables that follow, and of one that stands still.
  await outside('lake');
  await at(staff, '/tenants/acme/steads/lake');
  await staff.click('a[href$="transfer.lake/database"]');
  await staff.waitForSelector('.cm-content');
  await staff.waitForSelector('#schema .tree summary:has-text("items__changes")');
  await run('selec 1');
  await staff.waitForSelector('#results .note.bad');
  await judge(staff, 'lake-error');
  await run('select * from items order by id');
  await staff.waitForSelector('#results table tbody tr');
  await staff.click('main .tree summary:has-text("items") >> nth=0');
  await staff.waitForSelector('section .why:has-text("primary key")');
  await isLive(staff, 'lake');
  for (const [format, begins] of [['csv', 'id,'], ['arrow', '\xff\xff\xff\xff'], ['parquet', 'PAR1']]) {
    const [file] = await Promise.all([staff.waitForEvent('download'), staff.click(`button[value=${format}]`)]);
    const bytes = readFileSync(await file.path(), 'latin1');
    if (!file.suggestedFilename().endsWith(`.${format}`) || !bytes.startsWith(begins)) fail(`${format}: ${file.suggestedFilename()}`);
  }
  await staff.click('summary:has-text("Copy everything anew")');
  await staff.fill('#reason', 'the slot was dropped');
  await judge(staff, 'lake-anew-live');
  await staff.click('button:has-text("Yes, copy everything anew")');
  await staff.waitForURL(/runs/);
  await sees(staff, 'New copy of lake');

  // What is on record.
  await at(staff, '/tenants/acme/timeline');
  await sees(staff, 'the office moved');
  await isLive(staff, 'timeline');
  const line = await staff.getAttribute('#rows a[href*="/timeline/"]', 'href');
  await loading(staff, 'timeline', 'main form button');
  await at(staff, '/tenants/acme/timeline?since=nonsense');
  await staff.waitForSelector('[role=alert]');
  await judge(staff, 'timeline-error');
  await staff.goto(new URL(line, CONSOLE).href);
  await isLive(staff, 'line');
  await at(staff, '/tenants/acme/audit');
  await isLive(staff, 'audit');
  await loading(staff, 'audit', 'main form button');
  await at(staff, '/audit?since=nonsense');
  await judge(staff, 'audit-error');
  await at(staff, '/audit');
  await isLive(staff, 'audit-of-all');

  // Functions: one of which a release is tried, then one that does not start.
  await outside('function');
  await at(staff, '/tenants/acme/steads/demo');
  await sees(staff, 'is tried on 20 % of the calls');
  await isLive(staff, 'function');
  await outside('function-broken');
  await at(staff, '/tenants/acme/steads/demo');
  await sees(staff, 'does not start');
  await judge(staff, 'function-error');

  // A stead whose migration cannot be run, and its run.
  await outside('break');
  await at(staff, '/tenants/acme/timeline?stead=broken');
  const runs = await staff.getAttribute('#rows a[href*="/runs/"]', 'href');
  await staff.goto(new URL(runs, CONSOLE).href);
  await staff.waitForSelector('main .note.bad');
  await judge(staff, 'run-error');
  await at(staff, '/tenants/acme/steads/broken');
  await staff.waitForSelector('main .note');
  await judge(staff, 'stead-error');
  await at(staff, '/tenants/acme/timeline?stead=shop');
  const done = await staff.getAttribute('#rows a[href*="/runs/"]', 'href');
  await staff.goto(new URL(done, CONSOLE).href);
  await sees(staff, 'What happened meanwhile');
  await isLive(staff, 'run');
  await at(staff, '/tenants/acme/steads/shop');
  await isLive(staff, 'stead');
  await at(staff, '/fleet');
  await isLive(staff, 'fleet');
  await loading(staff, 'fleet', 'main form button');
  await at(staff, '/tenants/acme?q=nothing');
  await sees(staff, 'Nothing fits');
  await judge(staff, 'steads-nothing-fits-empty');
  await at(staff, '/fleet?health=nonsense');
  await judge(staff, 'fleet-error');
  await at(staff, '/tenants/acme');
  await isLive(staff, 'steads');

  // What was logged.
  await at(staff, '/tenants/acme/logs');
  await staff.waitForSelector('main .logs li');
  await isLive(staff, 'logs');
  await loading(staff, 'logs', 'main form button');
  await at(staff, '/tenants/acme/logs?q=%22no+end');
  await staff.waitForSelector('#q-wrong');
  await judge(staff, 'logs-error');
  await at(staff, '/tenants/acme/logs?q=broken&follow=1');
  await sees(staff, 'Following');
  await judge(staff, 'logs-following-live');
  // What is written while somebody follows is seen without a click.
  const other = await staff.context().newPage();
  await other.goto(`${CONSOLE}${database}`);
  await other.waitForSelector('.cm-content');
  await other.click('.cm-content');
  await other.keyboard.insertText("do $$ begin raise log 'broken while somebody follows'; end $$");
  await other.keyboard.press('Escape');
  await other.keyboard.press('Control+Enter');
  await staff.waitForSelector('main .logs >> text=broken while somebody follows');
  await other.close();

  // The control plane is killed while a page is open: it says so, and goes on by itself afterwards.
  for (const [name, path] of [['stead', '/tenants/acme/steads/shop'], ['logs', '/tenants/acme/logs?follow=1']]) {
    await at(staff, path);
    await outside('kill');
    await staff.waitForSelector('#away >> text=does not answer');
    await judge(staff, `${name}-away-error`);
    await outside('start');
    await staff.waitForSelector('#away:empty', { state: 'attached' });
  }
  await outside('log');
  await staff.waitForSelector('main .logs >> text=written after the kill');

  if (live !== 19) fail(`${live} screens were seen live`);
} catch (error) {
  await broke(page, error);
}
await end();

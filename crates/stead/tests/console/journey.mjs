// The console in a real browser, by the keyboard alone: somebody signs in with the company's account, makes a stead, changes
// who may connect (refused first, then planned, applied, seen), reads the timeline and the logs, runs SQL and cancels it.
// Pictures go to $STEAD_TEST_PICTURES.
import { broke, end, fail, judge as judgeOf, picture, visitor, wrong } from './browser.mjs';

const console_ = process.env.CONSOLE;
const page = await visitor();
const judge = (name) => judgeOf(page, name);
const QUERY = `create table orders (customer text, city text, total numeric(8, 2));
insert into orders values ('Linh', 'Hanoi', 120), ('Ann', 'Boston', 80.5), ('Linh', 'Hanoi', 42), ('Omar', 'Cairo', 64);

select customer, city, count(*) as orders, sum(total) as total
from orders group by customer, city order by total desc`;

/** Goes by Tab to what a selector names. */
const tabTo = async (selector) => {
  const there = () => page.evaluate((wanted) => document.activeElement?.matches(wanted) ?? false, selector);
  const visible = () => page.evaluate(() => {
    const style = getComputedStyle(document.activeElement);
    return style.outlineStyle !== 'none' || document.activeElement.matches('input, select, textarea, [contenteditable]');
  });
  await page.waitForSelector(selector);
  for (let step = 0; step < 150; step += 1) {
    if (await there()) {
      if (!(await visible())) wrong.push(`${selector}: the focus is not seen`);
      return;
    }
    await page.keyboard.press('Tab');
  }
  fail(`${selector} on ${page.url()} is not reached by Tab`);
};
const type = async (selector, text) => {
  await tabTo(selector);
  await page.keyboard.press('Control+A');
  await page.keyboard.press('Delete');
  await page.keyboard.type(text);
};
const press = async (selector, key = 'Enter') => { await tabTo(selector); await page.keyboard.press(key); };
const sees = async (text) => { await page.waitForSelector(`text=${text}`); };

try {
  // In by the company's account.
  await page.goto(`${console_}/`);
  await judge('sign-in');
  await press('a[href*="/sign-in/provider"]');
  await page.waitForSelector('input[name=login]');
  await page.fill('input[name=login]', 'ann');
  await page.fill('input[name=password]', 'any');
  await page.keyboard.press('Enter');
  await page.waitForSelector('button:has-text("Continue")');
  await page.click('button:has-text("Continue")');
  await sees('No steads yet');
  await judge('steads-empty');

  // A stead; the first list of networks is none.
  await press('a.button[href$="/new"]');
  await page.waitForSelector('#name');
  await type('#name', 'shop');
  await type('#allow', '10.0.0.0/33');
  await press('main form button');
  await sees('no such prefix');
  await judge('new-refused');
  await type('#allow', '127.0.0.0/8');
  await press('main form button');
  await page.waitForSelector('.pill.good');
  await judge('stead');

  // Who may connect: refused, planned, applied, seen.
  await press('a[href$="/settings"]');
  await page.waitForSelector('#allow');
  await type('#allow', 'everybody');
  await press('main form button');
  await sees('Nothing was changed');
  await judge('settings-refused');
  await type('#allow', '127.0.0.0/8\n203.0.113.0/24');
  await press('main form button');
  await sees('What would change');
  await judge('plan');
  await picture(page, 'plan');
  await type('#reason', 'the office moved');
  await press('button[name=apply]');
  await page.waitForSelector('main dl.facts:has-text("203.0.113.0/24")');
  await page.waitForSelector('main:not(:has(.note.busy))');
  await judge('stead-changed');
  await picture(page, 'stead');

  // On record, with who and why.
  await press('header nav a[href$="/timeline"]');
  await sees('the office moved');
  await sees('ann@acme.example');
  await judge('timeline');
  await picture(page, 'timeline');

  // What was logged.
  await press('header nav a[href$="/logs"]');
  await page.waitForSelector('main .logs li');
  await judge('logs');
  await type('#q', '"ready to accept"');
  await page.keyboard.press('Enter');
  await sees('ready to accept connections');
  if (!page.url().includes('q=%22ready')) fail(`${page.url()} is no search`);
  await press('a[href*="follow=1"]');
  await sees('Following');

  // SQL, and one that is cancelled.
  await press('header nav a[href$="/tenants/acme"]');
  await press('main a[href$="/steads/shop"]');
  await press('a[href$="/database"]');
  await page.waitForSelector('.cm-content');
  await tabTo('.cm-content');
  await page.keyboard.insertText(QUERY);
  // What the editor offers to complete is closed.
  await page.keyboard.press('Escape');
  await page.keyboard.press('Control+Enter');
  await page.waitForSelector('main table td:has-text("Hanoi")');
  await judge('database');
  await picture(page, 'database');
  await page.keyboard.press('Control+A');
  await page.keyboard.type('select pg_sleep(60)');
  const began = Date.now();
  await page.keyboard.press('Control+Enter');
  await sees('running');
  await page.keyboard.press('Control+.');
  await page.waitForSelector('main >> text=/cancell?ed/i');
  if (Date.now() - began > 30_000) fail('a query was not cancelled');

  // Out: the first Escape is for what the editor may be about to offer, the second gives Tab back to the page.
  await page.keyboard.press('Escape');
  await page.keyboard.press('Escape');
  await press('header form button');
  await sees('You are signed out');
  await judge('signed-out');
  await page.goto(`${console_}/tenants/acme`);
  await page.waitForSelector('text=Sign in');
  if (!page.url().includes('/sign-in')) fail(`${page.url()} is seen after signing out`);
} catch (error) {
  await broke(page, error);
}
await end();

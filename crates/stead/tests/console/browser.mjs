// A real browser for the tests of the console, and its judges: axe at two widths, light and dark; Lighthouse.
import { createRequire } from 'node:module';
import { createServer } from 'node:net';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { pathToFileURL } from 'node:url';

const modules = process.env.STEAD_TEST_NODE_MODULES;
const { chromium } = await import(pathToFileURL(`${modules}/playwright-core/index.mjs`));
const axe = readFileSync(createRequire(`${modules}/`).resolve('axe-core/axe.min.js'), 'utf8');
const pictures = process.env.STEAD_TEST_PICTURES;
if (pictures) mkdirSync(pictures, { recursive: true });

/** A port that nobody listens on. */
const freePort = () => new Promise((resolve) => {
  const server = createServer().listen(0, '127.0.0.1', () => {
    const { port } = server.address();
    server.close(() => resolve(port));
  });
});

/** Everything that was found wrong; a run with any has failed. */
export const wrong = [];
export const fail = (what) => { throw new Error(what); };
/** How often pages were judged. */
export let judged = 0;

const opened = [];

/** A browser of somebody's own, with one page. Other tools can use it at its `port`. */
export const visitor = async () => {
  const port = await freePort();
  const profile = mkdtempSync(`${tmpdir()}/stead-browser-`);
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.STEAD_TEST_CHROMIUM_PATH,
    args: ['--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu', `--remote-debugging-port=${port}`],
    viewport: { width: 1440, height: 900 },
    timezoneId: 'UTC',
    // The judge is put into pages whose policy lets no such script in.
    bypassCSP: true,
  });
  opened.push({ context, profile });
  const page = context.pages()[0];
  page.port = port;
  page.setDefaultTimeout(30_000);
  page.on('pageerror', (error) => wrong.push(`script: ${error.message}`));
  page.on('console', (message) => {
    if (message.type() === 'error' && /Content Security Policy/.test(message.text())) wrong.push(message.text());
  });
  return page;
};

/** A picture for people, of what is on the screen, to the folder $STEAD_TEST_SHOWN. */
export const picture = async (page, name) => {
  if (!process.env.STEAD_TEST_SHOWN) return;
  await page.setViewportSize({ width: 1280, height: 800 });
  const focused = await page.evaluateHandle(() => {
    const focused = document.activeElement;
    focused?.blur();
    window.scrollTo(0, 0);
    return focused;
  });
  await page.screenshot({ path: `${process.env.STEAD_TEST_SHOWN}/${name}.png` });
  await focused.evaluate((element) => element?.focus());
  await page.setViewportSize({ width: 1440, height: 900 });
};

/** Judges a page as it is. */
export const judge = async (page, name) => {
  for (const width of [1440, 390]) {
    await page.setViewportSize({ width, height: 900 });
    for (const colorScheme of ['light', 'dark']) {
      await page.emulateMedia({ colorScheme });
      await page.evaluate(axe);
      const { violations } = await page.evaluate(() => axe.run());
      for (const found of violations) wrong.push(`${name} ${width} ${colorScheme}: ${found.id}: ${found.nodes[0].html}`);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth > document.documentElement.clientWidth);
      if (wide) wrong.push(`${name} ${width}: the page is wider than the screen`);
      if (pictures) await page.screenshot({ path: `${pictures}/${name}-${width}-${colorScheme}.png`, fullPage: true });
    }
  }
  await page.setViewportSize({ width: 1440, height: 900 });
  await page.emulateMedia({ colorScheme: 'light' });
  judged += 1;
};

/** Has Lighthouse judge the page where somebody is: accessibility and best practices, nothing less than all. */
export const lighthouse = async (page, name) => {
  const { default: run } = await import(pathToFileURL(`${modules}/lighthouse/core/index.js`));
  const url = page.url();
  const { lhr } = await run(url, {
    port: page.port,
    output: 'json',
    logLevel: 'error',
    onlyCategories: ['accessibility', 'best-practices'],
    formFactor: 'desktop',
    screenEmulation: { disabled: true },
    disableFullPageScreenshot: true,
    // Nothing is slowed down, and nothing timed: the page is seen as soon as it is at rest.
    throttlingMethod: 'simulate',
    networkQuietThresholdMs: 500,
    pauseAfterFcpMs: 0,
    pauseAfterLoadMs: 0,
    // It looks as whoever is signed in there.
    disableStorageReset: true,
  });
  if (lhr.runtimeError) wrong.push(`${name}: lighthouse: ${lhr.runtimeError.message}`);
  if (lhr.finalDisplayedUrl !== url) wrong.push(`${name}: lighthouse saw ${lhr.finalDisplayedUrl}`);
  for (const category of Object.values(lhr.categories)) {
    if (category.score === 1) continue;
    const lacking = category.auditRefs.filter(({ id, weight }) => weight > 0 && (lhr.audits[id].score ?? 1) < 1);
    const why = lacking.map(({ id }) => `${id} ${JSON.stringify(lhr.audits[id].details?.items?.slice(0, 2) ?? '')}`);
    wrong.push(`${name}: lighthouse gives ${category.id} ${category.score}: ${why.join('; ')}`);
  }
};

/** Says what was found, and ends. */
export const end = async () => {
  for (const { context, profile } of opened) {
    await context.close();
    rmSync(profile, { recursive: true, force: true });
  }
  for (const one of wrong) console.log(one);
  console.log(`${judged} pages judged`);
  process.exit(wrong.length ? 1 : 0);
};

/** Notes why it could not go on, with what stood on the page. */
export const broke = async (page, error) => {
  const text = await page.evaluate(() => document.body.innerText).catch(() => '');
  wrong.push(`${error.stack}\n${page.url()}\n${text}`);
};

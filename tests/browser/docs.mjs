// The page of the interface's description: whole, by keyboard, and on a telephone. Usage: node docs.mjs <origin> [screenshots]
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { visit } from './browser.mjs';

const [origin, screenshots] = process.argv.slice(2);
const shoot = (page, name) => (screenshots ? page.screenshot({ path: join(screenshots, `${name}.png`) }) : undefined);

const description = await (await fetch(`${origin}/openapi.json`)).json();
const methods = ['get', 'put', 'post', 'delete', 'patch'];
const operations = Object.values(description.paths).flatMap((path) => methods.filter((method) => path[method])).length;
assert.ok(operations > 20, `only ${operations} operations are described`);

const desk = await visit(origin, { width: 1280, height: 900 }, async (page) => {
  await page.goto(`${origin}/`);
  await page.waitForURL(`${origin}/docs/`);
  await page.waitForFunction((count) => document.querySelectorAll('.opblock').length === count, operations);
  await shoot(page, 'docs');

  // By keyboard alone: to the first operation, open it, and its parameters show.
  const isOperation = () => page.evaluate(() => document.activeElement?.closest('.opblock-summary') !== null);
  let steps = 0;
  while (!(await isOperation())) {
    assert.ok(steps++ < 60, 'Tab does not reach an operation');
    await page.keyboard.press('Tab');
  }
  await page.keyboard.press('Enter');
  await page.waitForSelector('.opblock.is-open .opblock-body');
  await shoot(page, 'docs-open');
});
assert.deepEqual(desk, []);

const phone = await visit(origin, { width: 360, height: 740 }, async (page) => {
  await page.goto(`${origin}/docs/`);
  await page.waitForFunction((count) => document.querySelectorAll('.opblock').length === count, operations);
  await shoot(page, 'docs-phone');
  const width = await page.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(width <= 360, `the page is ${width} px wide on a telephone of 360`);
});
assert.deepEqual(phone, []);

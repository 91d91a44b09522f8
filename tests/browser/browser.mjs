// Debian's Chromium, for the pages of a running Conca: nothing may leave its origin, nothing may go wrong in the console.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

const FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync'];

/** Opens a browser at a viewport, calls `look(page)`, and returns what went wrong on the way. */
export async function visit(origin, viewport, look) {
  const profile = await mkdtemp(join(tmpdir(), 'conca-browser-'));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: '/usr/bin/chromium', headless: true, args: FLAGS, viewport,
  });
  const faults = [];
  try {
    const page = await context.newPage();
    page.setDefaultTimeout(20_000);
    page.on('console', (message) => { if (message.type() === 'error') faults.push(`console: ${message.text()}`); });
    page.on('pageerror', (error) => faults.push(`error: ${error.message}`));
    page.on('request', (request) => {
      const url = request.url();
      if (!url.startsWith(`${origin}/`) && !url.startsWith('data:')) faults.push(`leaves the origin: ${url}`);
    });
    await look(page);
  } finally {
    await context.close();
    await rm(profile, { recursive: true, force: true });
  }
  return faults;
}

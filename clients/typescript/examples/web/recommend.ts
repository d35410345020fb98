/** Opens the page in a headless Chromium, which calls the edge over gRPC-Web, and prints its text. */

import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";

import * as esbuild from "esbuild";
import { chromium, type Request } from "playwright-core";

import { optionsOf, type Options } from "../options.js";

const PAGE = join(import.meta.dirname, "../../../examples/web");
const LAST_WORDS_MS = 5000;
const CHROMIUM = process.env["CHROMIUM"] ?? "/usr/bin/chromium";

const options = optionsOf("recommend");
const home = mkdtempSync(join(tmpdir(), "vireo-chromium-"));
const bundle = await esbuild.context({ entryPoints: [join(PAGE, "page.ts")], bundle: true, outdir: PAGE, write: false });
try {
  if (options.authority) {
    trust(options.authority);
  }
  const { port } = await bundle.serve({ servedir: PAGE, host: "127.0.0.1" });
  await ask(`http://127.0.0.1:${port}/`, options);
} finally {
  await bundle.dispose();
  rmSync(home, { recursive: true, force: true });
}

/** Makes Chromium trust the authorities of a PEM file: on Linux, in a database in its home. */
function trust(authority: string): void {
  const database = join(home, ".pki/nssdb");
  mkdirSync(database, { recursive: true });
  execFileSync("certutil", ["-d", `sql:${database}`, "-N", "--empty-password"]);
  execFileSync("certutil", ["-d", `sql:${database}`, "-A", "-t", "C,,", "-n", "vireo", "-i", authority]);
}

async function ask(address: string, options: Options): Promise<void> {
  const patience = options.timeout * 1000 + 30_000;
  const browser = await chromium.launch({
    timeout: patience,
    executablePath: CHROMIUM,
    env: { ...process.env, HOME: home },
    chromiumSandbox: process.getuid?.() !== 0, // the sandbox doesn't run as root
  });
  try {
    const page = await browser.newPage();
    page.setDefaultTimeout(patience);
    const open = new Set<Request>();
    page.on("request", (request) => open.add(request));
    page.on("requestfinished", (request) => open.delete(request));
    // The page only sees that fetch failed; the browser has the reason. Aborts by the page itself are left out.
    page.on("requestfailed", (request) => {
      open.delete(request);
      const reason = request.failure()?.errorText ?? "";
      if (reason !== "net::ERR_ABORTED") {
        console.error(`${request.url()}: ${reason}`);
      }
    });
    await page.goto(address);
    const scheme = options.authority ? "https" : "http";
    const filled = {
      origin: `${scheme}://${options.address}`,
      viewers: options.viewers.join("\n"),
      "page-size": String(options.pageSize),
      timeout: String(options.timeout),
      played: options.played,
      upsert: options.upsert,
      remove: options.remove,
      tag: options.tag,
      pages: String(options.pages),
      similar: options.similar,
      why: options.why,
      token: options.token ?? "",
    };
    for (const [name, text] of Object.entries(filled)) {
      await page.fill(`[name=${name}]`, text);
    }
    await page.click("button");
    const shown = page.locator("#slate:not(:empty), #failure:not(:empty)");
    await shown.waitFor();
    // The page may report a failure slightly before the browser does.
    for (let waited = 0; open.size > 0 && waited < LAST_WORDS_MS; waited += 20) {
      await setTimeout(20);
    }
    const text = (await shown.textContent()) ?? "";
    if ((await shown.getAttribute("id")) === "slate") {
      console.log(text);
    } else {
      console.error(text);
      process.exitCode = 1;
    }
  } finally {
    await browser.close();
  }
}

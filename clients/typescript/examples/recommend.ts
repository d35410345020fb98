/** Requests slates and more from a Vireo stack over gRPC and prints each as JSON; it may change something before. */

import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";

import { createVireoClient } from "@vireo-recommender/client";

import { linesOf } from "./lines.js";
import { optionsOf } from "./options.js";
import { explain } from "./output.js";

// For an IP address Node sends the address as the server's name, which it warns about.
process.noDeprecation = true;

const options = optionsOf("recommend");
const { address, authority, timeout, tokenFile } = options;
// A server creates one client and reuses it.
const client = createVireoClient({
  baseUrl: `${authority ? "https" : "http"}://${address}`,
  ca: authority && readFileSync(authority),
  token: tokenFile ? async () => (await readFile(tokenFile, "utf8")).trim() : options.token,
  timeoutMs: timeout * 1000,
  patienceMs: timeout * 1000,
});
try {
  for await (const line of linesOf(client, options)) {
    console.log(line);
  }
} catch (error) {
  console.error(explain(error));
  process.exitCode = 1;
} finally {
  client.close();
}

import { parseArgs } from "node:util";

import type { Asked } from "./lines.js";

/** Options from the command line and the environment. */
export interface Options extends Asked {
  /** host:port of the edge. */
  address: string;
  /** Seconds for a call, or without a slate of a batch, retries included. */
  timeout: number;
  /** PEM file of trusted authorities; plaintext if absent. */
  authority: string | undefined;
  /** Bearer token; needs TLS. */
  token: string | undefined;
  /** File of the current token, read for every call. */
  tokenFile: string | undefined;
}

/** Reads the command line; prints the problem and exits with 2 if it is invalid. */
export function optionsOf(program: string): Options {
  try {
    return parsed();
  } catch (error) {
    console.error(`error: ${error instanceof Error ? error.message : error}`);
    console.error(
      `usage: ${program} [--page-size N] [--timeout SECONDS] [--tls-ca FILE] [--token TOKEN | --token-file FILE] [--played VIDEO] [--upsert VIDEO] [--remove VIDEO] [--tag TAG] [--pages N] [--similar VIDEO | --why VIDEO] HOST:PORT [VIEWER...]`,
    );
    process.exit(2);
  }
}

function parsed(): Options {
  const { values, positionals } = parseArgs({
    options: {
      "page-size": { type: "string", default: "10" },
      timeout: { type: "string", default: "1" },
      "tls-ca": { type: "string" },
      token: { type: "string" },
      "token-file": { type: "string" },
      played: { type: "string", default: "" },
      upsert: { type: "string", default: "" },
      remove: { type: "string", default: "" },
      tag: { type: "string", default: "" },
      pages: { type: "string", default: "1" },
      similar: { type: "string", default: "" },
      why: { type: "string", default: "" },
    },
    allowPositionals: true,
  });
  const [address, ...viewers] = positionals;
  if (address === undefined) {
    throw new Error("an address is needed");
  }
  const options = {
    address,
    viewers,
    pageSize: numberOf("page-size", values["page-size"]),
    played: values.played,
    upsert: values.upsert,
    remove: values.remove,
    tag: values.tag,
    pages: numberOf("pages", values.pages),
    similar: values.similar,
    why: values.why,
    timeout: numberOf("timeout", values.timeout),
    authority: values["tls-ca"] || process.env["VIREO_CA"] || undefined,
    token: values.token || process.env["VIREO_TOKEN"] || undefined,
    tokenFile: values["token-file"],
  };
  if ((options.similar !== "") !== (viewers.length === 0)) {
    throw new Error("a viewer or --similar is needed, and not both");
  }
  if (viewers.length !== 1 && (options.why || options.played || options.pages !== 1)) {
    throw new Error("--why, --played and --pages are of one viewer");
  }
  if ((options.token || options.tokenFile) && !options.authority) {
    throw new Error("a token must not travel in plain text: give --tls-ca, too");
  }
  return options;
}

function numberOf(name: string, text: string): number {
  const number = Number(text);
  if (text === "" || !Number.isFinite(number)) {
    throw new Error(`--${name}: ${JSON.stringify(text)} is no number`);
  }
  return number;
}

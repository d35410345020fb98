/** The page: calls the edge in its form, and shows what it gets as JSON, or the error. */

import { createVireoClient } from "@vireo-recommender/client";

import { linesOf } from "../lines.js";
import { explain } from "../output.js";

const form = document.querySelector("form")!;
const slate = document.querySelector("#slate")!;
const failure = document.querySelector("#failure")!;

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  slate.textContent = failure.textContent = "";
  const asked = new FormData(form);
  const text = (name: string) => String(asked.get(name) ?? "");
  try {
    const timeoutMs = Number(text("timeout")) * 1000;
    const client = createVireoClient({
      baseUrl: text("origin"),
      token: text("token") || undefined,
      timeoutMs,
      patienceMs: timeoutMs,
    });
    const lines: string[] = [];
    const wanted = {
      viewers: text("viewers").split(/\r?\n/),
      pageSize: Number(text("page-size")),
      tag: text("tag"),
      pages: Number(text("pages")),
      similar: text("similar"),
      why: text("why"),
      played: text("played"),
      upsert: text("upsert"),
      remove: text("remove"),
    };
    for await (const line of linesOf(client, wanted)) {
      lines.push(line);
    }
    slate.textContent = lines.join("\n");
  } catch (error) {
    failure.textContent = explain(error);
  }
});

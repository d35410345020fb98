/** The page: calls the edge in its form, records what was played, and shows what it gets as JSON, or the error. */

import { Code, ConnectError } from "@connectrpc/connect";

import { played } from "../event.js";
import { explain } from "../failure.js";
import { BadRequestSchema, RetryInfoSchema } from "../gen/google/rpc/error_details_pb.js";
import { linesOf, type Calls } from "../lines.js";
import type { Asked } from "../request.js";
import { clientsOf } from "./client.js";

const form = document.querySelector("form")!;
const slate = document.querySelector("#slate")!;
const failure = document.querySelector("#failure")!;

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  slate.textContent = failure.textContent = "";
  const asked = new FormData(form);
  const text = (name: string) => String(asked.get(name) ?? "");
  try {
    const { slates, events } = clientsOf(text("origin"), text("token"));
    const timeoutMs = Number(text("timeout")) * 1000;
    // Of all calls of a batch; others have a timeout each.
    const batchDeadline = Date.now() + timeoutMs;
    const calls: Calls = {
      recommend: (request) => slates.recommend(request, { timeoutMs }),
      similarVideos: (request) => slates.similarVideos(request, { timeoutMs }),
      explainVideo: (request) => slates.explainVideo(request, { timeoutMs }),
      batchRecommend: (request) => slates.batchRecommend(request, { timeoutMs: batchDeadline - Date.now() }),
      isUnavailable: (error) => ConnectError.from(error).code === Code.Unavailable,
    };
    const asked: Asked = {
      viewers: text("viewers").split(/\r?\n/),
      pageSize: Number(text("page-size")),
      tag: text("tag"),
      pages: Number(text("pages")),
      similar: text("similar"),
      why: text("why"),
    };
    const [viewer = ""] = asked.viewers;
    if (text("played")) {
      await events.recordEvents(played(viewer, text("played")), { timeoutMs });
    }
    const lines: string[] = [];
    for await (const line of linesOf(asked, calls)) {
      lines.push(line);
    }
    slate.textContent = lines.join("\n");
  } catch (error) {
    const failed = ConnectError.from(error);
    failure.textContent = explain(
      nameOf(failed.code),
      failed.rawMessage,
      failed.findDetails(BadRequestSchema),
      failed.findDetails(RetryInfoSchema),
    );
  }
});

/** INVALID_ARGUMENT of Code.InvalidArgument. */
function nameOf(code: Code): string {
  return Code[code].replace(/(?<=[a-z])(?=[A-Z])/g, "_").toUpperCase();
}

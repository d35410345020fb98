/** The page: calls the edge in its form, records what was played, and shows the slate's pages as JSON, or the error. */

import { Code, ConnectError } from "@connectrpc/connect";

import { played } from "../event.js";
import { explain } from "../failure.js";
import { BadRequestSchema, RetryInfoSchema } from "../gen/google/rpc/error_details_pb.js";
import type { RecommendRequest } from "../gen/vireo/v1/recommendation_pb.js";
import { pagesOf, requestOf } from "../request.js";
import { slateJson } from "../slate.js";
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
    const clients = clientsOf(text("origin"), text("token"));
    const timeoutMs = Number(text("timeout")) * 1000;
    if (text("played")) {
      await clients.events.recordEvents(played(text("viewer"), text("played")), { timeoutMs });
    }
    const first = requestOf(text("viewer"), Number(text("page-size")), text("tag"));
    const recommend = (request: RecommendRequest) => clients.slates.recommend(request, { timeoutMs });
    const lines: string[] = [];
    for await (const page of pagesOf(first, Number(text("pages")), recommend)) {
      lines.push(slateJson(page));
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

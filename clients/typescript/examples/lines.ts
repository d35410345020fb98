import { EventKind, newEvent, type VireoClient } from "@vireo-recommender/client";

import { batchJson, explanationJson, slateJson } from "./output.js";

/** What to do, and what to ask for. */
export interface Asked {
  /** None, for videos like one; or the viewer, or those of a batch. */
  viewers: string[];
  pageSize: number;
  /** Tag that all videos must have; any if empty. */
  tag: string;
  /** Number of pages to print. */
  pages: number;
  /** Video whose like to print; none if empty. */
  similar: string;
  /** Video to explain; none if empty. */
  why: string;
  /** Video to record as played first; none if empty. */
  played: string;
  /** Video to add to the catalogue first; none if empty. */
  upsert: string;
  /** Video to remove from the catalogue first; none if empty. */
  remove: string;
}

/** Changes what is to be changed, and yields what is asked for, as lines of JSON. */
export async function* linesOf(client: VireoClient, asked: Asked): AsyncGenerator<string> {
  const [viewerId = ""] = asked.viewers;
  if (asked.upsert) {
    await client.upsertVideos({ videos: [{ videoId: asked.upsert, title: asked.upsert }] });
  }
  if (asked.remove) {
    await client.removeVideos({ videoIds: [asked.remove] });
  }
  if (asked.played) {
    await client.recordEvents({ events: [newEvent(EventKind.FINISH, viewerId, asked.played)] });
  }
  const { pageSize } = asked;
  const filter = asked.tag ? { conditions: [{ attribute: "tag", anyOf: [asked.tag] }] } : undefined;
  if (asked.similar) {
    yield slateJson(await client.similarVideos({ videoId: asked.similar, pageSize, filter }));
  } else if (asked.why) {
    const request = { viewerId, pageSize, filter };
    yield explanationJson(asked.why, await client.explainVideo({ videoId: asked.why, request }));
  } else if (asked.viewers.length > 1) {
    for await (const response of client.batch({ viewerIds: asked.viewers, pageSize, filter })) {
      yield batchJson(response);
    }
  } else {
    let printed = 0;
    for await (const page of client.pages({ viewerId, pageSize, filter })) {
      yield slateJson(page);
      if (++printed === asked.pages) {
        break;
      }
    }
  }
}

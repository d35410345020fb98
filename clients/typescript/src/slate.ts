import type { RecommendResponse } from "./gen/vireo/v1/recommendation_pb.js";
import { DegradationSchema } from "./gen/vireo/v1/viewer_pb.js";

/** A slate as one line of JSON. */
export function slateJson(response: RecommendResponse): string {
  return JSON.stringify({
    release_id: response.releaseId,
    // By its number if the server is newer than these stubs.
    degradations: response.degradations.map((each) => DegradationSchema.value[each]?.name ?? String(each)),
    items: response.items.map((item) => ({
      video_id: item.videoId,
      position: item.position,
      score: item.score,
    })),
  });
}

import {
  LostAt,
  LostAtSchema,
  type BatchRecommendResponse,
  type ExplainVideoResponse,
  type RecommendResponse,
  type SimilarVideosResponse,
} from "./gen/vireo/v1/recommendation_pb.js";
import { DegradationSchema, type Degradation } from "./gen/vireo/v1/viewer_pb.js";

/** A slate, or the videos like one, as one line of JSON. */
export function slateJson(response: RecommendResponse | SimilarVideosResponse): string {
  return JSON.stringify(slateOf(response));
}

/** The slate of one viewer of many. */
export function batchJson({ viewerId, slate }: BatchRecommendResponse): string {
  return JSON.stringify({ viewerId, ...(slate && slateOf(slate)) });
}

/** At which stage a video was lost, and why, or its position. */
export function explanationJson(videoId: string, response: ExplainVideoResponse): string {
  const { lostAt } = response;
  return JSON.stringify({
    releaseId: response.releaseId,
    degradations: namesOf(response.degradations),
    videoId,
    // Absent if it is on the page.
    lostAt: lostAt === LostAt.UNSPECIFIED ? undefined : (LostAtSchema.value[lostAt]?.name ?? String(lostAt)),
    reason: response.reason,
    position: response.position,
    score: response.score,
  });
}

function slateOf(response: RecommendResponse | SimilarVideosResponse) {
  return {
    releaseId: response.releaseId,
    degradations: namesOf(response.degradations),
    items: response.items.map((item) => ({
      videoId: item.videoId,
      position: item.position,
      score: item.score,
    })),
  };
}

function namesOf(degradations: Degradation[]): string[] {
  // By its number if the server is newer than these stubs.
  return degradations.map((each) => DegradationSchema.value[each]?.name ?? String(each));
}

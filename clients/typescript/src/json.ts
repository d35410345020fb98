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
  return JSON.stringify({ viewer_id: viewerId, ...(slate && slateOf(slate)) });
}

/** At which stage a video was lost, and why, or its position. */
export function explanationJson(videoId: string, response: ExplainVideoResponse): string {
  const { lostAt } = response;
  return JSON.stringify({
    release_id: response.releaseId,
    degradations: namesOf(response.degradations),
    video_id: videoId,
    // Absent if it is on the page.
    lost_at: lostAt === LostAt.UNSPECIFIED ? undefined : (LostAtSchema.value[lostAt]?.name ?? String(lostAt)),
    reason: response.reason,
    position: response.position,
    score: response.score,
  });
}

function slateOf(response: RecommendResponse | SimilarVideosResponse) {
  return {
    release_id: response.releaseId,
    degradations: namesOf(response.degradations),
    items: response.items.map((item) => ({
      video_id: item.videoId,
      position: item.position,
      score: item.score,
    })),
  };
}

function namesOf(degradations: Degradation[]): string[] {
  // By its number if the server is newer than these stubs.
  return degradations.map((each) => DegradationSchema.value[each]?.name ?? String(each));
}

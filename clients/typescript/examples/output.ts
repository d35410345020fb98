import {
  DegradationSchema,
  LostAt,
  LostAtSchema,
  VireoError,
  type BatchRecommendResponse,
  type Degradation,
  type ExplainVideoResponse,
  type RecommendResponse,
  type SimilarVideosResponse,
} from "@vireo-recommender/client";

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

/** Code and message, then each invalid field, and the delay before a retry. */
export function explain(error: unknown): string {
  if (!(error instanceof VireoError)) {
    throw error;
  }
  const { violations, retryAfterMs } = error;
  return [
    `${error.codeName}: ${error.rawMessage}`,
    ...violations.map((each) => `  ${each.field}: ${each.description}`),
    ...(retryAfterMs === undefined ? [] : [`  retry after ${Math.floor(retryAfterMs)} ms`]),
  ].join("\n");
}

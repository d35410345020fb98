import type { BatchRecommendRequest, BatchRecommendResponse } from "./gen/vireo/v1/recommendation_pb.js";

/** In a row, without a slate. */
const MAX_RESUMES = 3;
const PAUSE_MS = 100;

/**
 * The slates of many viewers as they come. A stream ends early if, for example, its gateway restarts: it is
 * continued after the last slate, on another gateway.
 */
export async function* batchOf(
  request: BatchRecommendRequest,
  recommend: (request: BatchRecommendRequest) => AsyncIterable<BatchRecommendResponse>,
  isUnavailable: (error: unknown) => boolean,
): AsyncGenerator<BatchRecommendResponse> {
  for (let resumes = 0; ; resumes++) {
    try {
      for await (const response of recommend(request)) {
        request.resumeToken = response.resumeToken;
        resumes = 0;
        yield response;
      }
      return;
    } catch (error) {
      if (!isUnavailable(error) || resumes === MAX_RESUMES) {
        throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
  }
}

import type { RecommendRequest, RecommendResponse } from "./gen/vireo/v1/recommendation_pb.js";

/**
 * The pages of a slate: the same request with the token of the last page gets the next, without a video of
 * those before.
 */
export async function* pagesOf(
  request: RecommendRequest,
  count: number,
  recommend: (request: RecommendRequest) => Promise<RecommendResponse>,
): AsyncGenerator<RecommendResponse> {
  for (let page = 0; page < count; page++) {
    const response = await recommend(request);
    yield response;
    if (!response.nextPageToken) {
      return;
    }
    request.pageToken = response.nextPageToken;
  }
}

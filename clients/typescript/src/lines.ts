import { batchOf } from "./batch.js";
import { batchJson, explanationJson, slateJson } from "./json.js";
import type {
  BatchRecommendRequest,
  BatchRecommendResponse,
  ExplainVideoRequest,
  ExplainVideoResponse,
  RecommendRequest,
  RecommendResponse,
  SimilarVideosRequest,
  SimilarVideosResponse,
} from "./gen/vireo/v1/recommendation_pb.js";
import { pagesOf } from "./pages.js";
import { batchRequest, similarRequest, slateRequest, whyRequest, type Asked } from "./request.js";

/** The calls, over gRPC or gRPC-Web. */
export interface Calls {
  recommend(request: RecommendRequest): Promise<RecommendResponse>;
  similarVideos(request: SimilarVideosRequest): Promise<SimilarVideosResponse>;
  explainVideo(request: ExplainVideoRequest): Promise<ExplainVideoResponse>;
  batchRecommend(request: BatchRecommendRequest): AsyncIterable<BatchRecommendResponse>;
  /** Whether a call failed with UNAVAILABLE. */
  isUnavailable(error: unknown): boolean;
}

/** What is asked for, as lines of JSON. */
export async function* linesOf(asked: Asked, calls: Calls): AsyncGenerator<string> {
  if (asked.similar) {
    yield slateJson(await calls.similarVideos(similarRequest(asked)));
  } else if (asked.why) {
    yield explanationJson(asked.why, await calls.explainVideo(whyRequest(asked)));
  } else if (asked.viewers.length > 1) {
    for await (const response of batchOf(batchRequest(asked), calls.batchRecommend, calls.isUnavailable)) {
      yield batchJson(response);
    }
  } else {
    for await (const page of pagesOf(slateRequest(asked), asked.pages, calls.recommend)) {
      yield slateJson(page);
    }
  }
}

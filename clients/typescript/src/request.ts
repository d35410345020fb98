import { create, type MessageInitShape } from "@bufbuild/protobuf";

import type { FilterSchema } from "./gen/vireo/v1/filter_pb.js";
import {
  BatchRecommendRequestSchema,
  ExplainVideoRequestSchema,
  RecommendRequestSchema,
  SimilarVideosRequestSchema,
  type BatchRecommendRequest,
  type ExplainVideoRequest,
  type RecommendRequest,
  type SimilarVideosRequest,
} from "./gen/vireo/v1/recommendation_pb.js";

/** What to request. */
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
}

/** The request for a slate. */
export function slateRequest(asked: Asked): RecommendRequest {
  const [viewerId = ""] = asked.viewers;
  return create(RecommendRequestSchema, { viewerId, pageSize: asked.pageSize, filter: filterOf(asked) });
}

/** The request for the videos like one, for no viewer in particular. */
export function similarRequest(asked: Asked): SimilarVideosRequest {
  return create(SimilarVideosRequestSchema, { videoId: asked.similar, pageSize: asked.pageSize, filter: filterOf(asked) });
}

/** The request to explain a video's place in a slate. */
export function whyRequest(asked: Asked): ExplainVideoRequest {
  return create(ExplainVideoRequestSchema, { videoId: asked.why, request: slateRequest(asked) });
}

/** The request for the slates of many viewers. */
export function batchRequest(asked: Asked): BatchRecommendRequest {
  return create(BatchRecommendRequestSchema, { viewerIds: asked.viewers, pageSize: asked.pageSize, filter: filterOf(asked) });
}

function filterOf(asked: Asked): MessageInitShape<typeof FilterSchema> | undefined {
  return asked.tag ? { conditions: [{ attribute: "tag", anyOf: [asked.tag] }] } : undefined;
}

/** What the package has for Node and browsers alike: the client, its errors, and the messages and services of the API. */

export { newEvent, VireoClient, type CallOptions, type ClientOptions } from "./client.js";
export {
  DeadlineExceeded,
  InvalidRequest,
  NotFound,
  Overloaded,
  PermissionDenied,
  REQUEST_ID,
  Unauthenticated,
  Unavailable,
  VireoError,
  type Violation,
} from "./errors.js";
export * from "./gen/vireo/v1/catalog_pb.js";
export * from "./gen/vireo/v1/event_pb.js";
export * from "./gen/vireo/v1/filter_pb.js";
export * from "./gen/vireo/v1/recommendation_pb.js";
export * from "./gen/vireo/v1/viewer_pb.js";

/** Requests slates and more from a Vireo stack over gRPC and prints each as JSON; it may record an event before. */

import { fromBinary, type DescMessage, type MessageShape } from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import { status, type ServiceError } from "@grpc/grpc-js";

import { played } from "../event.js";
import { explain } from "../failure.js";
import { BadRequestSchema, RetryInfoSchema } from "../gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "../gen/google/rpc/status_pb.js";
import { linesOf, type Calls } from "../lines.js";
import { optionsOf } from "../options.js";
import { RecommendationClient } from "./client.js";

// For an IP address grpc-js sends the address as the server's name, which Node warns about.
process.noDeprecation = true;

const options = optionsOf("recommend");
const { timeout } = options;
const client = new RecommendationClient(options.address, options.authority, options.token);
// Of all calls of a batch; others have a timeout each.
const batchDeadline = new Date(Date.now() + timeout * 1000);
const calls: Calls = {
  recommend: (request) => client.recommend(request, timeout),
  similarVideos: (request) => client.similarVideos(request, timeout),
  explainVideo: (request) => client.explainVideo(request, timeout),
  batchRecommend: (request) => client.batchRecommend(request, batchDeadline),
  isUnavailable: (error) => (error as ServiceError).code === status.UNAVAILABLE,
};
try {
  const [viewer] = options.viewers;
  if (viewer !== undefined && options.played) {
    await client.recordEvents(played(viewer, options.played), timeout);
  }
  for await (const line of linesOf(options, calls)) {
    console.log(line);
  }
} catch (error) {
  const failed = error as ServiceError;
  const code = status[failed.code] ?? String(failed.code);
  console.error(explain(code, failed.details, detailsOf(failed, BadRequestSchema), detailsOf(failed, RetryInfoSchema)));
  process.exitCode = 1;
} finally {
  client.close();
}

/** Details of one type in a failure. */
function detailsOf<Schema extends DescMessage>(failed: ServiceError, schema: Schema): MessageShape<Schema>[] {
  return failed.metadata
    .get("grpc-status-details-bin")
    .filter((bytes) => Buffer.isBuffer(bytes))
    .flatMap((bytes) => fromBinary(StatusSchema, bytes).details)
    .map((detail) => anyUnpack(detail, schema))
    .filter((detail) => detail !== undefined);
}

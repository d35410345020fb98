import { create } from "@bufbuild/protobuf";
import { timestampNow } from "@bufbuild/protobuf/wkt";

import { EventKind, RecordEventsRequestSchema, type RecordEventsRequest } from "./gen/vireo/v1/event_pb.js";

/**
 * The request that records that a viewer has played a video to its end. An event counts once by its id,
 * however often it is sent: keep the request until the call has succeeded.
 */
export function played(viewerId: string, videoId: string): RecordEventsRequest {
  const eventId = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  const kind = EventKind.FINISH;
  return create(RecordEventsRequestSchema, { events: [{ eventId, viewerId, videoId, kind, time: timestampNow() }] });
}

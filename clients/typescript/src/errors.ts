import { Code, ConnectError } from "@connectrpc/connect";
import { durationMs } from "@bufbuild/protobuf/wkt";

import { BadRequestSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";

/** The header of a call's id in the server's logs. */
export const REQUEST_ID = "x-request-id";

/** One invalid field of a request. */
export interface Violation {
  /** Path of the field, for example `excluded_video_ids[3]`. */
  field: string;
  description: string;
}

/** A failed call; an instance of this class itself has a code that no other class is for. */
export class VireoError extends Error {
  constructor(
    /** Code of gRPC. */
    readonly code: Code,
    /** The server's message, without code and id. */
    readonly rawMessage: string,
    /** The call's id in the server's logs. */
    readonly requestId: string,
    /** The server's delay before a retry; undefined if it sent none. */
    readonly retryAfterMs: number | undefined,
    /** The invalid fields, at most 20. */
    readonly violations: readonly Violation[],
    options?: ErrorOptions,
  ) {
    super(`${codeName(code)}: ${rawMessage} (request ${requestId})`, options);
    this.name = new.target.name;
  }

  /** Name of the code as the protocol spells it, for example `INVALID_ARGUMENT`. */
  get codeName(): string {
    return codeName(this.code);
  }
}

/** The request is invalid: `violations` names the fields. A retry won't help. */
export class InvalidRequest extends VireoError {}
/** The video is not in the served release. */
export class NotFound extends VireoError {}
/** The token is missing or invalid. */
export class Unauthenticated extends VireoError {}
/** The token lacks the scope, or is for another viewer. */
export class PermissionDenied extends VireoError {}
/** The server shed the request before any work was done; or, without `retryAfterMs`, it is too large. */
export class Overloaded extends VireoError {}
/** The server is unreachable or not serving yet, or can't store events. */
export class Unavailable extends VireoError {}
/** There was no response within the timeout. */
export class DeadlineExceeded extends VireoError {}

const CLASSES: Partial<Record<Code, typeof VireoError>> = {
  [Code.InvalidArgument]: InvalidRequest,
  [Code.NotFound]: NotFound,
  [Code.Unauthenticated]: Unauthenticated,
  [Code.PermissionDenied]: PermissionDenied,
  [Code.ResourceExhausted]: Overloaded,
  [Code.Unavailable]: Unavailable,
  [Code.DeadlineExceeded]: DeadlineExceeded,
};

/** What Connect makes of a connection that is refused, cut or not trusted: gRPC says UNAVAILABLE. */
const OF_CONNECTIONS = new Set([Code.Aborted, Code.Canceled, Code.Internal, Code.Unknown]);

/** Returns the error of a call that failed with whatever Connect threw; `signal` is the caller's own. */
export function errorOf(thrown: unknown, requestId: string, signal?: AbortSignal): VireoError {
  const failed = ConnectError.from(thrown);
  const fromServer = !failed.metadata.keys().next().done;
  const lost = !fromServer && !signal?.aborted && OF_CONNECTIONS.has(failed.code);
  const code = lost ? Code.Unavailable : failed.code;
  const delay = failed.findDetails(RetryInfoSchema)[0]?.retryDelay;
  return new (CLASSES[code] ?? VireoError)(
    code,
    failed.rawMessage,
    failed.metadata.get(REQUEST_ID) ?? requestId,
    delay && durationMs(delay),
    failed
      .findDetails(BadRequestSchema)
      .flatMap((each) => each.fieldViolations)
      .map(({ field, description }) => ({ field, description })),
    { cause: failed },
  );
}

function codeName(code: Code): string {
  if (code === Code.Canceled) {
    return "CANCELLED";
  }
  return (Code[code] ?? String(code)).replace(/(?<=[a-z])(?=[A-Z])/g, "_").toUpperCase();
}

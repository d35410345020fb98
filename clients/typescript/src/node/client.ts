/** A client over gRPC: grpc-js carries the messages of protobuf-es. */

import { readFileSync } from "node:fs";

import { fromBinary, toBinary, type DescMethodUnary, type DescMessage, type MessageShape } from "@bufbuild/protobuf";
import * as grpc from "@grpc/grpc-js";

import { EventService, type RecordEventsRequest, type RecordEventsResponse } from "../gen/vireo/v1/event_pb.js";
import { RecommendationService, type RecommendRequest, type RecommendResponse } from "../gen/vireo/v1/recommendation_pb.js";

/**
 * Requests are idempotent, so that each is safe to send again. While more than about one
 * in ten tries fails nothing is: retries help against a pod that is gone, not against a service that is.
 */
const SERVICE_CONFIG = {
  methodConfig: [
    {
      name: [
        { service: RecommendationService.typeName },
        { service: EventService.typeName, method: EventService.method.recordEvents.name },
      ],
      retryPolicy: {
        maxAttempts: 3,
        initialBackoff: "0.02s",
        maxBackoff: "0.5s",
        backoffMultiplier: 3,
        retryableStatusCodes: ["UNAVAILABLE"],
      },
    },
  ],
  retryThrottling: { maxTokens: 20, tokenRatio: 0.1 },
};

/** A client with one connection for any number of calls: create one and reuse it. */
export class RecommendationClient {
  private readonly client: grpc.Client;

  /**
   * Prepares the connection: it is made when it is first needed, and made anew when lost.
   *
   * @param address host:port
   * @param authority PEM file of the authorities to trust; plain text without one
   * @param token sent along with every call; needs TLS
   */
  constructor(address: string, authority?: string, token?: string) {
    this.client = new grpc.Client(address, credentials(authority, token), {
      "grpc.service_config": JSON.stringify(SERVICE_CONFIG),
      // Detects a silently lost connection within 40 s, even without calls.
      "grpc.keepalive_time_ms": 30_000,
      "grpc.keepalive_timeout_ms": 10_000,
      "grpc.keepalive_permit_without_calls": 1,
    });
  }

  /** Makes one call with a timeout in seconds, including retries; rejects with a grpc.ServiceError. */
  recommend(request: RecommendRequest, timeout: number): Promise<RecommendResponse> {
    return this.call(RecommendationService.method.recommend, request, timeout);
  }

  /** Records events in the same way: all of them, or none. */
  recordEvents(request: RecordEventsRequest, timeout: number): Promise<RecordEventsResponse> {
    return this.call(EventService.method.recordEvents, request, timeout);
  }

  private call<Input extends DescMessage, Output extends DescMessage>(
    method: DescMethodUnary<Input, Output>,
    request: MessageShape<Input>,
    timeout: number,
  ): Promise<MessageShape<Output>> {
    return new Promise((resolve, reject) => {
      this.client.makeUnaryRequest(
        `/${method.parent.typeName}/${method.name}`,
        (message: MessageShape<Input>) => Buffer.from(toBinary(method.input, message)),
        (bytes) => fromBinary(method.output, bytes),
        request,
        { deadline: Date.now() + timeout * 1000 },
        (error, response) => (response ? resolve(response) : reject(error)),
      );
    });
  }

  close(): void {
    this.client.close();
  }
}

function credentials(authority?: string, token?: string): grpc.ChannelCredentials {
  if (authority === undefined) {
    return grpc.credentials.createInsecure();
  }
  const tls = grpc.credentials.createSsl(readFileSync(authority));
  if (token === undefined) {
    return tls;
  }
  const bearer = grpc.credentials.createFromMetadataGenerator((_call, done) => {
    const metadata = new grpc.Metadata();
    metadata.set("authorization", `Bearer ${token}`);
    done(null, metadata);
  });
  return grpc.credentials.combineChannelCredentials(tls, bearer);
}

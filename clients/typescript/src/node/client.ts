/** A client over gRPC: grpc-js carries the messages of protobuf-es. */

import { readFileSync } from "node:fs";

import { fromBinary, toBinary, type DescMessage, type DescMethod, type DescMethodUnary, type MessageShape } from "@bufbuild/protobuf";
import * as grpc from "@grpc/grpc-js";

import { EventService, type RecordEventsRequest, type RecordEventsResponse } from "../gen/vireo/v1/event_pb.js";
import {
  RecommendationService,
  type BatchRecommendRequest,
  type BatchRecommendResponse,
  type ExplainVideoRequest,
  type ExplainVideoResponse,
  type RecommendRequest,
  type RecommendResponse,
  type SimilarVideosRequest,
  type SimilarVideosResponse,
} from "../gen/vireo/v1/recommendation_pb.js";

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

  similarVideos(request: SimilarVideosRequest, timeout: number): Promise<SimilarVideosResponse> {
    return this.call(RecommendationService.method.similarVideos, request, timeout);
  }

  explainVideo(request: ExplainVideoRequest, timeout: number): Promise<ExplainVideoResponse> {
    return this.call(RecommendationService.method.explainVideo, request, timeout);
  }

  /** Begins a stream of slates; reading it fails with a grpc.ServiceError. */
  batchRecommend(request: BatchRecommendRequest, deadline: Date): AsyncIterable<BatchRecommendResponse> {
    const { path, encode, decode } = wireOf(RecommendationService.method.batchRecommend);
    return this.client.makeServerStreamRequest(path, encode, decode, request, { deadline });
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
    const { path, encode, decode } = wireOf(method);
    const deadline = Date.now() + timeout * 1000;
    return new Promise((resolve, reject) => {
      this.client.makeUnaryRequest(path, encode, decode, request, { deadline }, (error, response) =>
        response ? resolve(response) : reject(error),
      );
    });
  }

  close(): void {
    this.client.close();
  }
}

/** How a method is called: its path, and its messages as bytes. */
function wireOf<Input extends DescMessage, Output extends DescMessage>(method: DescMethod & { input: Input; output: Output }) {
  return {
    path: `/${method.parent.typeName}/${method.name}`,
    encode: (message: MessageShape<Input>) => Buffer.from(toBinary(method.input, message)),
    decode: (bytes: Buffer) => fromBinary(method.output, bytes),
  };
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

/** A client over gRPC-Web, for browsers. */

import { createClient, type Client, type Interceptor } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";

import { RecommendationService } from "../gen/vireo/v1/recommendation_pb.js";

/**
 * A client of the edge at `origin`, for example https://recommend.example. Connections, their checks and
 * TLS are the browser's; a gateway that is gone is the edge's to get around: it sends a request again.
 *
 * @param token sent along with every call if not empty
 */
export function recommendationClient(origin: string, token: string): Client<typeof RecommendationService> {
  const bearer: Interceptor = (next) => (request) => {
    request.header.set("authorization", `Bearer ${token}`);
    return next(request);
  };
  return createClient(
    RecommendationService,
    createGrpcWebTransport({ baseUrl: origin, interceptors: token ? [bearer] : [] }),
  );
}

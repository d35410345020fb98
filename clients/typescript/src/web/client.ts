/** Clients over gRPC-Web, for browsers. */

import { createClient, type Client, type Interceptor } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";

import { EventService } from "../gen/vireo/v1/event_pb.js";
import { RecommendationService } from "../gen/vireo/v1/recommendation_pb.js";

/** Clients of the edge's services. */
export interface Clients {
  slates: Client<typeof RecommendationService>;
  events: Client<typeof EventService>;
}

/**
 * Clients of the edge at `origin`, for example https://recommend.example. Connections, their checks and
 * TLS are the browser's; a gateway that is gone is the edge's to get around: it sends a request again.
 *
 * @param token sent along with every call if not empty
 */
export function clientsOf(origin: string, token: string): Clients {
  const bearer: Interceptor = (next) => (request) => {
    request.header.set("authorization", `Bearer ${token}`);
    return next(request);
  };
  const transport = createGrpcWebTransport({ baseUrl: origin, interceptors: token ? [bearer] : [] });
  return { slates: createClient(RecommendationService, transport), events: createClient(EventService, transport) };
}

/** The client for browsers, over gRPC-Web. */

import { createGrpcWebTransport } from "@connectrpc/connect-web";

import { interceptorsOf, VireoClient, type ClientOptions } from "./client.js";

export * from "./api.js";

/** Returns a client of the edge at `baseUrl`. Its connections and TLS are the browser's. */
export function createVireoClient(options: ClientOptions): VireoClient {
  const { baseUrl } = options;
  return new VireoClient(createGrpcWebTransport({ baseUrl, interceptors: interceptorsOf(options) }), options);
}

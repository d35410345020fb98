/** The client for Node, over gRPC. */

import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";

import { interceptorsOf, VireoClient, type ClientOptions } from "./client.js";

export * from "./api.js";

/** The options of a client in Node. */
export interface NodeClientOptions extends ClientOptions {
  /** Trusted authorities in PEM, instead of Node's own list. */
  ca?: string | Buffer | undefined;
  /** Certificate of this client in PEM, for mutual TLS. */
  cert?: string | Buffer;
  /** Private key of the certificate. */
  key?: string | Buffer;
}

/** Returns a client with one connection, which is opened on the first call and reopened if lost. */
export function createVireoClient(options: NodeClientOptions): VireoClient {
  const { baseUrl, ca, cert, key } = options;
  const interceptors = interceptorsOf(options);
  const sessionManager = new Http2SessionManager(
    baseUrl,
    // Detects a silently lost connection within 40 s, even without calls.
    { pingIntervalMs: 30_000, pingTimeoutMs: 10_000, pingIdleConnection: true },
    { ...(ca && { ca }), ...(cert && { cert }), ...(key && { key }) },
  );
  const transport = createGrpcTransport({ baseUrl, interceptors, sessionManager });
  return new VireoClient(transport, options, () => sessionManager.abort());
}

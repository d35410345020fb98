package example.vireo.client;

import io.grpc.CallCredentials;
import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.TlsChannelCredentials;
import java.io.File;
import java.io.IOException;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;

/** Address of a stack, with credentials. */
final class Target {

  /**
   * Requests change nothing on the server, so that each is safe to send again. While more than
   * about one in ten tries fails nothing is: retries help against a pod that is gone, not against a
   * service that is. Numbers are doubles, as in JSON.
   */
  private static final Map<String, Object> SERVICE_CONFIG =
      Map.of(
          "methodConfig",
          List.of(
              Map.of(
                  "name",
                  List.of(Map.of("service", "vireo.v1.RecommendationService")),
                  "retryPolicy",
                  Map.of(
                      "maxAttempts", 3.0,
                      "initialBackoff", "0.02s",
                      "maxBackoff", "0.5s",
                      "backoffMultiplier", 3.0,
                      "retryableStatusCodes", List.of("UNAVAILABLE")))),
          "retryThrottling",
          Map.of("maxTokens", 20.0, "tokenRatio", 0.1));

  private final String address;
  private final File authority;
  private final String token;

  /**
   * @param address host:port
   * @param authority PEM file of the authorities to trust; plain text if null
   * @param token sent along if not null; needs TLS
   */
  Target(String address, File authority, String token) {
    if (token != null && authority == null) {
      throw new IllegalArgumentException(
          "a token must not travel in plain text: give --tls-ca, too");
    }
    this.address = address;
    this.authority = authority;
    this.token = token;
  }

  /** A channel; its connection is opened on the first call and reopened if lost. */
  ManagedChannel connect() throws IOException {
    ChannelCredentials credentials =
        authority == null
            ? InsecureChannelCredentials.create()
            : TlsChannelCredentials.newBuilder().trustManager(authority).build();
    return Grpc.newChannelBuilder(address, credentials)
        .defaultServiceConfig(SERVICE_CONFIG)
        .enableRetry()
        // Detects a silently lost connection within 40 s, even without calls.
        .keepAliveTime(30, TimeUnit.SECONDS)
        .keepAliveTimeout(10, TimeUnit.SECONDS)
        .keepAliveWithoutCalls(true)
        .build();
  }

  /** Call credentials of the token; null without a token. */
  CallCredentials callCredentials() {
    return token == null ? null : new BearerToken(token);
  }
}

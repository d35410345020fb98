package io.vireo.client;

import com.google.gson.Gson;
import io.grpc.Status;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.ThreadLocalRandom;

/** What is retried, and after how long: the table that the clients of all languages share. */
final class Retries {

  static final Retries TABLE = read();

  /** gRPC's service config, by which it retries calls that change nothing. */
  private Map<String, Object> serviceConfig;

  private double jitter;
  private Repeat repeat;
  private Batch batch;

  private static final class Repeat {
    private Set<Status.Code> reads;
    private Set<Status.Code> writes;
    private double delaySeconds;
    private double writeTimeoutSeconds;
  }

  private static final class Batch {
    private Set<Status.Code> codes;
    private double minPauseSeconds;
    private double maxPauseSeconds;
    private double patienceSeconds;
    private double streamTimeoutSeconds;
    private int maxViewers;
  }

  private static Retries read() {
    try (InputStream file = Retries.class.getResourceAsStream("retries.json")) {
      return new Gson().fromJson(new InputStreamReader(file, StandardCharsets.UTF_8), Retries.class);
    } catch (IOException failed) {
      throw new UncheckedIOException(failed);
    }
  }

  /** Returns the service config for a maximum number of attempts; that of the table if 0. */
  static Map<String, Object> serviceConfig(int attempts) {
    Map<String, Object> config = read().serviceConfig;
    if (attempts == 0) {
      return config;
    }
    for (Object each : (List<?>) config.get("methodConfig")) {
      @SuppressWarnings("unchecked")
      Map<String, Object> policy = (Map<String, Object>) ((Map<?, ?>) each).get("retryPolicy");
      policy.put("maxAttempts", (double) attempts);
    }
    return config;
  }

  Duration minWriteTimeout() {
    return duration(repeat.writeTimeoutSeconds);
  }

  Duration patience() {
    return duration(batch.patienceSeconds);
  }

  Duration streamTimeout() {
    return duration(batch.streamTimeoutSeconds);
  }

  /** Maximum viewers of one call of a batch. */
  int maxViewers() {
    return batch.maxViewers;
  }

  /** Returns the delay before a call is repeated that failed; empty if it is not. */
  Optional<Duration> repeatAfter(VireoException failed, boolean writes) {
    if (!(writes ? repeat.writes : repeat.reads).contains(failed.code()) || isTooLarge(failed)) {
      return Optional.empty();
    }
    return Optional.of(jittered(failed.retryAfter().orElse(duration(repeat.delaySeconds))));
  }

  /** Callers that were shed together must not return together. */
  private Duration jittered(Duration delay) {
    double factor = 1 + ThreadLocalRandom.current().nextDouble() * jitter;
    return Duration.ofNanos((long) (delay.toNanos() * factor));
  }

  private static boolean isTooLarge(VireoException failed) {
    return failed.code() == Status.Code.RESOURCE_EXHAUSTED && failed.retryAfter().isEmpty();
  }

  private static Duration duration(double seconds) {
    return Duration.ofNanos((long) (seconds * 1e9));
  }

  /** The pauses between the streams of a batch. */
  static final class Pauses {
    private final Duration patience;
    private double pause = TABLE.batch.minPauseSeconds;
    private boolean failing;
    private long failingSince;

    /** Gives up once streams have failed for so long without any slate. */
    Pauses(Duration patience) {
      this.patience = patience;
    }

    void succeeded() {
      pause = TABLE.batch.minPauseSeconds;
      failing = false;
    }

    /** Returns the delay before resuming after a stream that failed; empty if it is final. */
    Optional<Duration> after(VireoException failed) {
      if (!failing) {
        failing = true;
        failingSince = System.nanoTime();
      }
      Duration delay = duration(pause);
      Duration asked = failed.retryAfter().orElse(Duration.ZERO);
      delay = asked.compareTo(delay) > 0 ? asked : delay;
      Duration elapsed = Duration.ofNanos(System.nanoTime() - failingSince);
      boolean late = elapsed.plus(delay).compareTo(patience) > 0;
      if (late || isTooLarge(failed) || !TABLE.batch.codes.contains(failed.code())) {
        return Optional.empty();
      }
      pause = Math.min(2 * pause, TABLE.batch.maxPauseSeconds);
      return Optional.of(TABLE.jittered(delay));
    }
  }
}

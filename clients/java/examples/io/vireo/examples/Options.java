package io.vireo.examples;

import io.vireo.client.VireoClient;
import io.vireo.v1.Condition;
import io.vireo.v1.Filter;
import java.io.File;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/** Options from the command line and the environment. */
final class Options {

  private static final String USAGE =
      "usage: recommend [--page-size N] [--timeout SECONDS] [--tls-ca FILE] [--token TOKEN | --token-file FILE]"
          + " [--played VIDEO] [--upsert VIDEO] [--remove VIDEO] [--tag TAG] [--pages N]"
          + " [--similar VIDEO | --why VIDEO] HOST:PORT [VIEWER...]";

  private final List<String> positional = new ArrayList<>();
  private final Map<String, String> values = new HashMap<>();

  private Options() {
    for (String name : List.of("token-file", "played", "upsert", "remove", "tag", "similar", "why")) {
      values.put(name, "");
    }
    values.put("page-size", "10");
    values.put("timeout", "1");
    values.put("pages", "1");
    values.put("tls-ca", System.getenv().getOrDefault("VIREO_CA", ""));
    values.put("token", System.getenv().getOrDefault("VIREO_TOKEN", ""));
  }

  /** Reads the arguments; throws IllegalArgumentException if they are invalid. */
  static Options of(String[] arguments) {
    Options options = new Options();
    for (int at = 0; at < arguments.length; at++) {
      if (!arguments[at].startsWith("--")) {
        options.positional.add(arguments[at]);
      } else if (at + 1 == arguments.length || options.values.replace(arguments[at].substring(2), arguments[at + 1]) == null) {
        throw new IllegalArgumentException(USAGE);
      } else {
        at++;
      }
    }
    options.check();
    return options;
  }

  private void check() {
    boolean ofOne = !why().isEmpty() || !played().isEmpty() || pages() != 1;
    if (positional.isEmpty()
        || similar().isEmpty() == viewers().isEmpty()
        || (ofOne && viewers().size() != 1)
        || pageSize() < 0
        || timeout().isNegative()) {
      throw new IllegalArgumentException(USAGE);
    }
  }

  /** A client of the stack. */
  VireoClient client() throws IOException {
    VireoClient.Builder builder = VireoClient.builder(positional.get(0)).timeout(timeout()).patience(timeout());
    if (!values.get("tls-ca").isEmpty()) {
      builder.trust(new File(values.get("tls-ca")));
    }
    if (!values.get("token-file").isEmpty()) {
      Path file = Path.of(values.get("token-file"));
      builder.token(() -> read(file));
    } else if (!values.get("token").isEmpty()) {
      builder.token(() -> values.get("token"));
    }
    return builder.build();
  }

  private static String read(Path file) {
    try {
      return Files.readString(file).strip();
    } catch (IOException failed) {
      throw new UncheckedIOException(failed);
    }
  }

  /** None, for videos like one; or the viewer, or those of a batch. */
  List<String> viewers() {
    return positional.subList(1, positional.size());
  }

  /** The first viewer. */
  String viewer() {
    return positional.get(1);
  }

  /** Video to record as played first; none if empty. */
  String played() {
    return values.get("played");
  }

  /** Video to add to the catalogue first; none if empty. */
  String upsert() {
    return values.get("upsert");
  }

  /** Video to remove from the catalogue first; none if empty. */
  String remove() {
    return values.get("remove");
  }

  /** Filter of the videos with the tag; none without a tag. */
  Optional<Filter> filter() {
    if (values.get("tag").isEmpty()) {
      return Optional.empty();
    }
    Condition tagged = Condition.newBuilder().setAttribute("tag").addAnyOf(values.get("tag")).build();
    return Optional.of(Filter.newBuilder().addConditions(tagged).build());
  }

  /** Video whose like to print; none if empty. */
  String similar() {
    return values.get("similar");
  }

  /** Video to explain; none if empty. */
  String why() {
    return values.get("why");
  }

  /** Number of pages to print. */
  int pages() {
    return Integer.parseInt(values.get("pages"));
  }

  int pageSize() {
    return Integer.parseInt(values.get("page-size"));
  }

  /** Timeout of a call, retries included, or of a batch without a slate. */
  private Duration timeout() {
    return Duration.ofMillis((long) (Double.parseDouble(values.get("timeout")) * 1000));
  }
}

package example.vireo.client;

import example.vireo.v1.Condition;
import example.vireo.v1.Filter;
import java.io.File;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;

/** Options from the command line and the environment. */
final class Options {

  private static final String USAGE =
      "usage: recommend [--page-size N] [--timeout SECONDS] [--tls-ca FILE] [--token TOKEN]"
          + " [--played VIDEO] [--tag TAG] [--pages N] [--similar VIDEO | --why VIDEO]"
          + " HOST:PORT [VIEWER...]";

  private final List<String> positional = new ArrayList<>();
  private int pageSize = 10;
  private double seconds = 1;
  private String authority = System.getenv("VIREO_CA");
  private String played = "";
  private String tag = "";
  private int pages = 1;
  private String similar = "";
  private String why = "";
  private String token = System.getenv("VIREO_TOKEN");

  private Options() {}

  /** Reads the arguments; throws IllegalArgumentException if they are invalid. */
  static Options of(String[] arguments) {
    Options options = new Options();
    for (int at = 0; at < arguments.length; at++) {
      if (!arguments[at].startsWith("--")) {
        options.positional.add(arguments[at]);
      } else if (at + 1 < arguments.length) {
        options.set(arguments[at], arguments[++at]);
      } else {
        throw new IllegalArgumentException(USAGE);
      }
    }
    if (!options.valid()) {
      throw new IllegalArgumentException(USAGE);
    }
    return options;
  }

  private boolean valid() {
    if (positional.isEmpty() || similar.isEmpty() == viewers().isEmpty()) {
      return false;
    }
    boolean ofOne = !why.isEmpty() || !played.isEmpty() || pages != 1;
    return !ofOne || viewers().size() == 1;
  }

  private void set(String flag, String value) {
    switch (flag) {
      case "--page-size":
        pageSize = Integer.parseInt(value);
        break;
      case "--timeout":
        seconds = Double.parseDouble(value);
        break;
      case "--tls-ca":
        authority = value;
        break;
      case "--played":
        played = value;
        break;
      case "--tag":
        tag = value;
        break;
      case "--pages":
        pages = Integer.parseInt(value);
        break;
      case "--similar":
        similar = value;
        break;
      case "--why":
        why = value;
        break;
      case "--token":
        token = value;
        break;
      default:
        throw new IllegalArgumentException(USAGE);
    }
  }

  Target target() {
    boolean plain = authority == null || authority.isEmpty();
    boolean anonymous = token == null || token.isEmpty();
    return new Target(
        positional.get(0), plain ? null : new File(authority), anonymous ? null : token);
  }

  /** None, for videos like one; or the viewer, or those of a batch. */
  List<String> viewers() {
    return positional.subList(1, positional.size());
  }

  /** The first viewer. */
  String viewer() {
    return positional.get(1);
  }

  /** Video to record as played before the slate is requested; none if empty. */
  String played() {
    return played;
  }

  /** Filter of the videos with the tag; none without a tag. */
  Optional<Filter> filter() {
    if (tag.isEmpty()) {
      return Optional.empty();
    }
    Condition tagged = Condition.newBuilder().setAttribute("tag").addAnyOf(tag).build();
    return Optional.of(Filter.newBuilder().addConditions(tagged).build());
  }

  /** Video whose like to print; none if empty. */
  String similar() {
    return similar;
  }

  /** Video to explain; none if empty. */
  String why() {
    return why;
  }

  /** Number of pages to print. */
  int pages() {
    return pages;
  }

  int pageSize() {
    return pageSize;
  }

  /** Timeout of the call, including retries. */
  Duration timeout() {
    return Duration.ofMillis((long) (seconds * 1000));
  }
}

package example.vireo.client;

import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import java.io.IOException;
import java.util.concurrent.TimeUnit;

/**
 * Requests slates from a Vireo stack and prints each as JSON; before that it may record an event. It
 * also asks for the videos like one, and why a video is on a page or isn't.
 */
public final class Recommend {

  private Recommend() {}

  public static void main(String[] arguments) throws InterruptedException {
    ManagedChannel channel;
    Options options;
    try {
      options = Options.of(arguments);
      // One channel serves any number of calls and threads: a server creates one and reuses it.
      channel = options.target().connect();
    } catch (IllegalArgumentException | IOException wrong) {
      System.err.println("error: " + wrong.getMessage());
      System.exit(2);
      return;
    }
    int code = 0;
    try {
      run(new Stubs(channel, options), options);
    } catch (StatusRuntimeException failed) {
      System.err.println(Failure.explain(failed));
      code = 1;
    } finally {
      channel.shutdownNow().awaitTermination(5, TimeUnit.SECONDS);
    }
    System.exit(code);
  }

  private static void run(Stubs stubs, Options options) throws InterruptedException {
    if (!options.played().isEmpty()) {
      Played.record(stubs, options);
    }
    if (!options.similar().isEmpty()) {
      Similar.print(stubs, options);
    } else if (!options.why().isEmpty()) {
      Why.print(stubs, options);
    } else if (options.viewers().size() > 1) {
      Batch.print(stubs, options);
    } else {
      Pages.print(stubs, options);
    }
  }
}

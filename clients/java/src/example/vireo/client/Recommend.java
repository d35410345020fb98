package example.vireo.client;

import com.google.gson.Gson;
import com.google.gson.JsonArray;
import com.google.gson.JsonObject;
import com.google.protobuf.util.Timestamps;
import example.vireo.v1.Condition;
import example.vireo.v1.Degradation;
import example.vireo.v1.Event;
import example.vireo.v1.EventKind;
import example.vireo.v1.EventServiceGrpc;
import example.vireo.v1.Filter;
import example.vireo.v1.RecommendRequest;
import example.vireo.v1.RecommendResponse;
import example.vireo.v1.RecommendationServiceGrpc;
import example.vireo.v1.RecordEventsRequest;
import example.vireo.v1.SlateItem;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import java.io.IOException;
import java.util.UUID;
import java.util.concurrent.TimeUnit;

/** Requests pages of a slate from a Vireo stack and prints each as JSON; before that it may record an event. */
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
      if (!options.played().isEmpty()) {
        record(channel, options);
      }
      RecommendRequest request = request(options);
      for (int page = 0; page < options.pages(); page++) {
        RecommendResponse response = ask(channel, options, request);
        System.out.println(new Gson().toJson(slate(response)));
        if (response.getNextPageToken().isEmpty()) {
          break;
        }
        // The same request with the token of the last page gets the next, without a video of those before.
        request = request.toBuilder().setPageToken(response.getNextPageToken()).build();
      }
    } catch (StatusRuntimeException failed) {
      System.err.println(Failure.explain(failed));
      code = 1;
    } finally {
      channel.shutdownNow().awaitTermination(5, TimeUnit.SECONDS);
    }
    System.exit(code);
  }

  /** Tells the stack that the viewer played a video. By its id the event counts once, however often it is sent. */
  private static void record(ManagedChannel channel, Options options) {
    Event event =
        Event.newBuilder()
            .setEventId(UUID.randomUUID().toString())
            .setViewerId(options.viewer())
            .setKind(EventKind.EVENT_KIND_FINISH)
            .setVideoId(options.played())
            .setTime(Timestamps.fromMillis(System.currentTimeMillis()))
            .build();
    EventServiceGrpc.newBlockingStub(channel)
        .withCallCredentials(options.target().callCredentials())
        .withDeadlineAfter(options.timeout().toMillis(), TimeUnit.MILLISECONDS)
        .recordEvents(RecordEventsRequest.newBuilder().addEvents(event).build());
  }

  private static RecommendRequest request(Options options) {
    RecommendRequest.Builder request =
        RecommendRequest.newBuilder()
            .setViewerId(options.viewer())
            .setPageSize(options.pageSize());
    if (!options.tag().isEmpty()) {
      Condition tagged = Condition.newBuilder().setAttribute("tag").addAnyOf(options.tag()).build();
      request.setFilter(Filter.newBuilder().addConditions(tagged));
    }
    return request.build();
  }

  private static RecommendResponse ask(
      ManagedChannel channel, Options options, RecommendRequest request) {
    return RecommendationServiceGrpc.newBlockingStub(channel)
        .withCallCredentials(options.target().callCredentials())
        .withDeadlineAfter(options.timeout().toMillis(), TimeUnit.MILLISECONDS)
        .recommend(request);
  }

  private static JsonObject slate(RecommendResponse response) {
    JsonArray degradations = new JsonArray();
    for (Degradation each : response.getDegradationsList()) {
      degradations.add(each.name());
    }
    JsonArray items = new JsonArray();
    for (SlateItem each : response.getItemsList()) {
      JsonObject item = new JsonObject();
      item.addProperty("video_id", each.getVideoId());
      item.addProperty("position", each.getPosition());
      item.addProperty("score", each.getScore());
      items.add(item);
    }
    JsonObject slate = new JsonObject();
    slate.addProperty("release_id", response.getReleaseId());
    slate.add("degradations", degradations);
    slate.add("items", items);
    return slate;
  }
}

package example.vireo.client;

import com.google.protobuf.util.Timestamps;
import example.vireo.v1.Event;
import example.vireo.v1.EventKind;
import example.vireo.v1.RecordEventsRequest;
import java.util.UUID;

/** The event that a viewer has played a video. */
final class Played {

  private Played() {}

  /** Records it. By its id the event counts once, however often it is sent. */
  static void record(Stubs stubs, Options options) {
    Event event =
        Event.newBuilder()
            .setEventId(UUID.randomUUID().toString())
            .setViewerId(options.viewer())
            .setKind(EventKind.EVENT_KIND_FINISH)
            .setVideoId(options.played())
            .setTime(Timestamps.fromMillis(System.currentTimeMillis()))
            .build();
    stubs.events().recordEvents(RecordEventsRequest.newBuilder().addEvents(event).build());
  }
}

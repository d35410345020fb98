package example.vireo.client;

import com.google.gson.JsonObject;
import example.vireo.v1.ExplainVideoRequest;
import example.vireo.v1.ExplainVideoResponse;
import example.vireo.v1.LostAt;

/** At which stage of a viewer's slate a video was lost, and why, or its position. */
final class Why {

  private Why() {}

  static void print(Stubs stubs, Options options) {
    ExplainVideoRequest request =
        ExplainVideoRequest.newBuilder()
            .setRequest(Pages.request(options))
            .setVideoId(options.why())
            .build();
    ExplainVideoResponse response = stubs.recommendations().explainVideo(request);
    JsonObject explanation =
        Json.document(response.getReleaseId(), response.getDegradationsList());
    explanation.addProperty("videoId", options.why());
    if (response.getLostAt() != LostAt.LOST_AT_UNSPECIFIED) {
      explanation.addProperty("lostAt", response.getLostAt().name());
    }
    explanation.addProperty("reason", response.getReason());
    explanation.addProperty("position", response.getPosition());
    explanation.addProperty("score", response.getScore());
    Json.print(explanation);
  }
}

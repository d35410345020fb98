package io.vireo.examples;

import com.google.gson.Gson;
import com.google.gson.JsonArray;
import com.google.gson.JsonObject;
import com.google.rpc.BadRequest;
import io.vireo.client.VireoException;
import io.vireo.v1.BatchRecommendResponse;
import io.vireo.v1.Degradation;
import io.vireo.v1.ExplainVideoResponse;
import io.vireo.v1.LostAt;
import io.vireo.v1.RecommendResponse;
import io.vireo.v1.SimilarVideosResponse;
import io.vireo.v1.SlateItem;
import java.util.List;

/** What is printed: lines of JSON, and errors. */
final class Output {

  private Output() {}

  static void print(JsonObject document) {
    System.out.println(new Gson().toJson(document));
  }

  static JsonObject slate(RecommendResponse response) {
    JsonObject slate = document(response.getReleaseId(), response.getDegradationsList());
    slate.add("items", items(response.getItemsList()));
    return slate;
  }

  static JsonObject slate(SimilarVideosResponse response) {
    JsonObject slate = document(response.getReleaseId(), response.getDegradationsList());
    slate.add("items", items(response.getItemsList()));
    return slate;
  }

  static JsonObject batchSlate(BatchRecommendResponse response) {
    JsonObject slate = slate(response.getSlate());
    slate.addProperty("viewerId", response.getViewerId());
    return slate;
  }

  static JsonObject explanation(String video, ExplainVideoResponse response) {
    JsonObject explanation = document(response.getReleaseId(), response.getDegradationsList());
    explanation.addProperty("videoId", video);
    if (response.getLostAt() != LostAt.LOST_AT_UNSPECIFIED) {
      explanation.addProperty("lostAt", response.getLostAt().name());
    }
    explanation.addProperty("reason", response.getReason());
    explanation.addProperty("position", response.getPosition());
    explanation.addProperty("score", response.getScore());
    return explanation;
  }

  /** Code and message, then each invalid field, and the delay before a retry. */
  static String explain(VireoException failed) {
    StringBuilder text = new StringBuilder(failed.code() + ": " + failed.description());
    for (BadRequest.FieldViolation each : failed.violations()) {
      text.append("\n  ").append(each.getField()).append(": ").append(each.getDescription());
    }
    failed.retryAfter().ifPresent(delay -> text.append("\n  retry after " + delay.toMillis() + " ms"));
    return text.toString();
  }

  private static JsonObject document(String release, List<Degradation> degradations) {
    JsonArray names = new JsonArray();
    for (Degradation each : degradations) {
      names.add(each.name());
    }
    JsonObject document = new JsonObject();
    document.addProperty("releaseId", release);
    document.add("degradations", names);
    return document;
  }

  private static JsonArray items(List<SlateItem> videos) {
    JsonArray items = new JsonArray();
    for (SlateItem each : videos) {
      JsonObject item = new JsonObject();
      item.addProperty("videoId", each.getVideoId());
      item.addProperty("position", each.getPosition());
      item.addProperty("score", each.getScore());
      items.add(item);
    }
    return items;
  }
}

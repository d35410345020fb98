package example.vireo.client;

import com.google.gson.Gson;
import com.google.gson.JsonArray;
import com.google.gson.JsonObject;
import example.vireo.v1.Degradation;
import example.vireo.v1.RecommendResponse;
import example.vireo.v1.SimilarVideosResponse;
import example.vireo.v1.SlateItem;
import java.util.List;

/** What is printed, as one line of JSON each. */
final class Json {

  private Json() {}

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

  /** A document that begins with what every response has. */
  static JsonObject document(String release, List<Degradation> degradations) {
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

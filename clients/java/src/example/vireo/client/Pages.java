package example.vireo.client;

import example.vireo.v1.RecommendRequest;
import example.vireo.v1.RecommendResponse;

/** The pages of one viewer's slate. */
final class Pages {

  private Pages() {}

  static void print(Stubs stubs, Options options) {
    RecommendRequest request = request(options);
    for (int page = 0; page < options.pages(); page++) {
      RecommendResponse response = stubs.recommendations().recommend(request);
      Json.print(Json.slate(response));
      if (response.getNextPageToken().isEmpty()) {
        break;
      }
      // The same request with the token of the last page gets the next, without a video of those before.
      request = request.toBuilder().setPageToken(response.getNextPageToken()).build();
    }
  }

  /** The request for the first page. */
  static RecommendRequest request(Options options) {
    RecommendRequest.Builder request =
        RecommendRequest.newBuilder()
            .setViewerId(options.viewer())
            .setPageSize(options.pageSize());
    options.filter().ifPresent(request::setFilter);
    return request.build();
  }
}

package example.vireo.client;

import example.vireo.v1.SimilarVideosRequest;

/** The videos like one, for no viewer in particular. */
final class Similar {

  private Similar() {}

  static void print(Stubs stubs, Options options) {
    SimilarVideosRequest.Builder request =
        SimilarVideosRequest.newBuilder()
            .setVideoId(options.similar())
            .setPageSize(options.pageSize());
    options.filter().ifPresent(request::setFilter);
    Json.print(Json.slate(stubs.recommendations().similarVideos(request.build())));
  }
}

package example.vireo.client;

import com.google.gson.JsonObject;
import example.vireo.v1.BatchRecommendRequest;
import example.vireo.v1.BatchRecommendResponse;
import example.vireo.v1.RecommendationServiceGrpc.RecommendationServiceBlockingStub;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.util.Iterator;

/** The slates of many viewers, as a stream. */
final class Batch {

  /** In a row, without a slate. */
  private static final int MAX_RESUMES = 3;

  private static final long PAUSE_MILLIS = 100;

  private Batch() {}

  /**
   * Prints the slate of each viewer as it comes. A stream ends early if, for example, its gateway
   * restarts: it is continued after the last slate, on another gateway.
   */
  static void print(Stubs stubs, Options options) throws InterruptedException {
    BatchRecommendRequest.Builder request =
        BatchRecommendRequest.newBuilder()
            .addAllViewerIds(options.viewers())
            .setPageSize(options.pageSize());
    options.filter().ifPresent(request::setFilter);
    // One stub for all calls: its deadline is for the whole batch.
    RecommendationServiceBlockingStub stub = stubs.recommendations();
    for (int resumes = 0; ; resumes++) {
      try {
        Iterator<BatchRecommendResponse> stream = stub.batchRecommend(request.build());
        while (stream.hasNext()) {
          BatchRecommendResponse response = stream.next();
          request.setResumeToken(response.getResumeToken());
          resumes = 0;
          Json.print(document(response));
        }
        return;
      } catch (StatusRuntimeException failed) {
        if (failed.getStatus().getCode() != Status.Code.UNAVAILABLE || resumes == MAX_RESUMES) {
          throw failed;
        }
        Thread.sleep(PAUSE_MILLIS);
      }
    }
  }

  private static JsonObject document(BatchRecommendResponse response) {
    JsonObject document = Json.slate(response.getSlate());
    document.addProperty("viewerId", response.getViewerId());
    return document;
  }
}

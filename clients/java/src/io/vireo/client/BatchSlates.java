package io.vireo.client;

import io.grpc.Context;
import io.grpc.StatusRuntimeException;
import io.vireo.v1.BatchRecommendRequest;
import io.vireo.v1.BatchRecommendResponse;
import java.time.Duration;
import java.util.Iterator;
import java.util.List;
import java.util.NoSuchElementException;
import java.util.Optional;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;

/**
 * The slates of a batch, in the order of its viewers and each once. A stream that ends early, for example because its
 * gateway restarts, is resumed after the last slate, on any gateway. Close it if you don't read it to its end.
 *
 * <p>Its methods throw {@link VireoException} for what no resuming mends, and if streams fail for too long.
 */
public final class BatchSlates implements Iterator<BatchRecommendResponse>, AutoCloseable {

  private final Function<BatchRecommendRequest, Iterator<BatchRecommendResponse>> open;
  private final List<String> viewers;
  private final BatchRecommendRequest.Builder request;
  private final String requestId;
  private final Retries.Pauses pauses;
  private final Context caller = Context.current();

  private Context.CancellableContext context;
  private Iterator<BatchRecommendResponse> stream;
  private BatchRecommendResponse next;
  private int begun;

  /** Opens a stream whenever it needs one; `request` may have any number of viewers. */
  BatchSlates(
      Function<BatchRecommendRequest, Iterator<BatchRecommendResponse>> open,
      BatchRecommendRequest request,
      String requestId,
      Duration patience) {
    this.open = open;
    this.viewers = request.getViewerIdsList();
    this.request = request.toBuilder();
    this.requestId = requestId;
    this.pauses = new Retries.Pauses(patience);
  }

  @Override
  public boolean hasNext() {
    while (next == null && (stream != null || begun < viewers.size())) {
      try {
        advance();
      } catch (StatusRuntimeException thrown) {
        stream = null;
        pause(VireoException.of(thrown, requestId));
      }
    }
    return next != null;
  }

  @Override
  public BatchRecommendResponse next() {
    if (!hasNext()) {
      throw new NoSuchElementException();
    }
    BatchRecommendResponse response = next;
    next = null;
    return response;
  }

  /** Ends the stream; there are no more slates. */
  @Override
  public void close() {
    cancel();
    stream = null;
    begun = viewers.size();
  }

  /** Reads one slate, or goes on to the next part of the viewers. */
  private void advance() {
    int size = Retries.TABLE.maxViewers();
    int end = Math.min(begun + size, viewers.size());
    if (stream == null) {
      cancel();
      context = caller.withCancellation();
      request.clearViewerIds().addAllViewerIds(viewers.subList(begun, end));
      BatchRecommendRequest rest = request.build();
      Context before = context.attach();
      try {
        stream = open.apply(rest);
      } finally {
        context.detach(before);
      }
    }
    if (stream.hasNext()) {
      next = stream.next();
      request.setResumeToken(next.getResumeToken());
      pauses.succeeded();
    } else {
      stream = null;
      request.clearResumeToken();
      begun = end;
    }
  }

  private void pause(VireoException failed) {
    Optional<Duration> delay = pauses.after(failed);
    if (delay.isEmpty() || caller.isCancelled() || Thread.currentThread().isInterrupted()) {
      close();
      throw failed;
    }
    try {
      TimeUnit.NANOSECONDS.sleep(delay.get().toNanos());
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
      close();
      throw failed;
    }
  }

  private void cancel() {
    if (context != null) {
      context.cancel(null);
    }
  }
}

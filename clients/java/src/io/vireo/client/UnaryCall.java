package io.vireo.client;

import com.google.common.util.concurrent.FutureCallback;
import com.google.common.util.concurrent.Futures;
import com.google.common.util.concurrent.ListenableFuture;
import com.google.common.util.concurrent.MoreExecutors;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.Context;
import io.grpc.Deadline;
import io.grpc.MethodDescriptor;
import io.grpc.stub.ClientCalls;
import java.time.Duration;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

/** One call of a method with a single response, which may be repeated after the server's delay. */
final class UnaryCall<Q, R> implements FutureCallback<R> {

  private final Channel channel;
  private final MethodDescriptor<Q, R> method;
  private final Q request;
  private final boolean writes;
  private final CallOptions options;
  private final String requestId;
  private final CompletableFuture<R> result = new CompletableFuture<>();
  private final Context caller = Context.current();
  private int repeats;

  /** Prepares a call; `options` has its deadline. */
  UnaryCall(
      Channel channel,
      MethodDescriptor<Q, R> method,
      Q request,
      boolean writes,
      CallOptions options,
      String requestId,
      int repeats) {
    this.channel = channel;
    this.method = method;
    this.request = request;
    this.writes = writes;
    this.options = options;
    this.requestId = requestId;
    this.repeats = repeats;
  }

  /** Begins the call. To cancel the future ends it. */
  CompletableFuture<R> start() {
    ListenableFuture<R> attempt = ClientCalls.futureUnaryCall(channel.newCall(method, options), request);
    result.whenComplete((response, failed) -> attempt.cancel(true));
    Futures.addCallback(attempt, this, MoreExecutors.directExecutor());
    return result;
  }

  @Override
  public void onSuccess(R response) {
    result.complete(response);
  }

  @Override
  public void onFailure(Throwable thrown) {
    VireoException failed = VireoException.of(thrown, requestId);
    Optional<Duration> delay = Retries.TABLE.repeatAfter(failed, writes).filter(this::isInTime);
    if (repeats == 0 || delay.isEmpty()) {
      result.completeExceptionally(failed);
      return;
    }
    repeats--;
    CompletableFuture.delayedExecutor(delay.get().toNanos(), TimeUnit.NANOSECONDS)
        .execute(caller.wrap(this::repeat));
  }

  private void repeat() {
    if (!result.isDone()) {
      start();
    }
  }

  private boolean isInTime(Duration delay) {
    Deadline deadline = options.getDeadline();
    return deadline == null || delay.toNanos() < deadline.timeRemaining(TimeUnit.NANOSECONDS);
  }
}

package io.vireo.client;

import com.google.protobuf.util.Timestamps;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ChannelCredentials;
import io.grpc.ClientInterceptor;
import io.grpc.ClientInterceptors;
import io.grpc.Context;
import io.grpc.Deadline;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.TlsChannelCredentials;
import io.grpc.stub.AbstractStub;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.MetadataUtils;
import io.vireo.v1.BatchRecommendRequest;
import io.vireo.v1.CatalogServiceGrpc;
import io.vireo.v1.Event;
import io.vireo.v1.EventKind;
import io.vireo.v1.EventServiceGrpc;
import io.vireo.v1.ExplainVideoRequest;
import io.vireo.v1.ExplainVideoResponse;
import io.vireo.v1.RecommendRequest;
import io.vireo.v1.RecommendResponse;
import io.vireo.v1.RecommendationServiceGrpc;
import io.vireo.v1.RecordEventsRequest;
import io.vireo.v1.RecordEventsResponse;
import io.vireo.v1.RemoveVideosRequest;
import io.vireo.v1.RemoveVideosResponse;
import io.vireo.v1.SimilarVideosRequest;
import io.vireo.v1.SimilarVideosResponse;
import io.vireo.v1.UpsertVideosRequest;
import io.vireo.v1.UpsertVideosResponse;
import java.io.File;
import java.io.IOException;
import java.time.Duration;
import java.util.Iterator;
import java.util.NoSuchElementException;
import java.util.UUID;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;
import java.util.function.Supplier;

/**
 * A client of a Vireo stack with one connection, for any number of threads: create one and reuse it.
 *
 * <p>Each call has a method that blocks and one that returns a future. A failed call throws a {@link VireoException}, or
 * completes its future with one; if its thread is interrupted it throws a {@link CancellationException}. A deadline of
 * the current {@link Context} holds too.
 */
public final class VireoClient implements AutoCloseable {

  /** Metadata key of a call's id in the server's logs. */
  public static final Metadata.Key<String> REQUEST_ID =
      Metadata.Key.of("x-request-id", Metadata.ASCII_STRING_MARSHALLER);

  private static final int MAX_ATTEMPTS = 5; // gRPC's own

  private final ManagedChannel channel;
  private final BearerToken token;
  private final Duration timeout;
  private final Duration patience;
  private final int repeats;

  private VireoClient(ManagedChannel channel, Builder built) {
    this.channel = channel;
    this.token = built.token;
    this.timeout = built.timeout;
    this.patience = built.patience;
    this.repeats = built.attempts == 1 ? 0 : 1;
  }

  /** Returns a builder of a client of the stack at `target`, host:port or another name that gRPC resolves. */
  public static Builder builder(String target) {
    return new Builder(target);
  }

  /** Returns an event that happens now, with an id by which it counts once, however often it is sent. */
  public static Event newEvent(EventKind kind, String viewerId, String videoId) {
    return Event.newBuilder()
        .setEventId(newId())
        .setKind(kind)
        .setViewerId(viewerId)
        .setVideoId(videoId)
        .setTime(Timestamps.fromMillis(System.currentTimeMillis()))
        .build();
  }

  /** Returns the slate of a viewer, or one page of it. */
  public RecommendResponse recommend(RecommendRequest request) {
    return await(recommendAsync(request));
  }

  /** As {@link #recommend}. */
  public CompletableFuture<RecommendResponse> recommendAsync(RecommendRequest request) {
    return read(RecommendationServiceGrpc.getRecommendMethod(), request);
  }

  /** Returns the videos like one. */
  public SimilarVideosResponse similarVideos(SimilarVideosRequest request) {
    return await(similarVideosAsync(request));
  }

  /** As {@link #similarVideos}. */
  public CompletableFuture<SimilarVideosResponse> similarVideosAsync(SimilarVideosRequest request) {
    return read(RecommendationServiceGrpc.getSimilarVideosMethod(), request);
  }

  /** Returns why a video is in a viewer's slate, or isn't. It costs more than a slate: it is for people. */
  public ExplainVideoResponse explainVideo(ExplainVideoRequest request) {
    return await(explainVideoAsync(request));
  }

  /** As {@link #explainVideo}. */
  public CompletableFuture<ExplainVideoResponse> explainVideoAsync(ExplainVideoRequest request) {
    return read(RecommendationServiceGrpc.getExplainVideoMethod(), request);
  }

  /**
   * Records what viewers did, all of it or nothing. If it fails, send the same events again: each counts once, by its id.
   */
  public RecordEventsResponse recordEvents(RecordEventsRequest request) {
    return await(recordEventsAsync(request));
  }

  /** As {@link #recordEvents}. */
  public CompletableFuture<RecordEventsResponse> recordEventsAsync(RecordEventsRequest request) {
    return write(EventServiceGrpc.getRecordEventsMethod(), request);
  }

  /** Adds videos to the catalogue, or replaces what is known of them. */
  public UpsertVideosResponse upsertVideos(UpsertVideosRequest request) {
    return await(upsertVideosAsync(request));
  }

  /** As {@link #upsertVideos}. */
  public CompletableFuture<UpsertVideosResponse> upsertVideosAsync(UpsertVideosRequest request) {
    return write(CatalogServiceGrpc.getUpsertVideosMethod(), request);
  }

  /** Removes videos from all slates. */
  public RemoveVideosResponse removeVideos(RemoveVideosRequest request) {
    return await(removeVideosAsync(request));
  }

  /** As {@link #removeVideos}. */
  public CompletableFuture<RemoveVideosResponse> removeVideosAsync(RemoveVideosRequest request) {
    return write(CatalogServiceGrpc.getRemoveVideosMethod(), request);
  }

  /**
   * Returns the pages of a slate until there are no more videos; no video is on two of them. Each page is a call of its
   * own, made when it is asked for.
   */
  public Iterable<RecommendResponse> pages(RecommendRequest first) {
    return () ->
        new Iterator<>() {
          private RecommendRequest request = first;

          @Override
          public boolean hasNext() {
            return request != null;
          }

          @Override
          public RecommendResponse next() {
            if (request == null) {
              throw new NoSuchElementException();
            }
            RecommendResponse page = recommend(request);
            String token = page.getNextPageToken();
            request = token.isEmpty() ? null : request.toBuilder().setPageToken(token).build();
            return page;
          }
        };
  }

  /** Returns the slates of any number of viewers, for mail and push. */
  public BatchSlates batch(BatchRecommendRequest request) {
    String id = newId();
    return new BatchSlates(
        part ->
            ClientCalls.blockingServerStreamingCall(
                identified(id),
                RecommendationServiceGrpc.getBatchRecommendMethod(),
                options(Retries.TABLE.streamTimeout()),
                part),
        request,
        id,
        patience);
  }

  /**
   * Returns a stub of any of the API's services, for example {@code stub(EventServiceGrpc::newFutureStub)}. Its calls
   * have the token, and gRPC's retries, but no deadline.
   */
  public <S extends AbstractStub<S>> S stub(Function<Channel, S> factory) {
    return factory.apply(channel).withCallCredentials(token);
  }

  /** Closes the connection, and ends the calls in flight. */
  @Override
  public void close() {
    channel.shutdownNow();
    try {
      channel.awaitTermination(5, TimeUnit.SECONDS);
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
    }
  }

  private <Q, R> CompletableFuture<R> read(MethodDescriptor<Q, R> method, Q request) {
    return start(method, request, false, timeout);
  }

  private <Q, R> CompletableFuture<R> write(MethodDescriptor<Q, R> method, Q request) {
    Duration least = Retries.TABLE.minWriteTimeout();
    return start(method, request, true, timeout.compareTo(least) > 0 ? timeout : least);
  }

  private <Q, R> CompletableFuture<R> start(
      MethodDescriptor<Q, R> method, Q request, boolean writes, Duration limit) {
    String id = newId();
    return new UnaryCall<>(identified(id), method, request, writes, options(limit), id, repeats).start();
  }

  private CallOptions options(Duration limit) {
    Deadline deadline = Deadline.after(limit.toNanos(), TimeUnit.NANOSECONDS);
    return CallOptions.DEFAULT.withDeadline(deadline).withCallCredentials(token);
  }

  private Channel identified(String id) {
    Metadata headers = new Metadata();
    headers.put(REQUEST_ID, id);
    ClientInterceptor interceptor = MetadataUtils.newAttachHeadersInterceptor(headers);
    return ClientInterceptors.intercept(channel, interceptor);
  }

  private static String newId() {
    return UUID.randomUUID().toString().replace("-", "");
  }

  private static <R> R await(CompletableFuture<R> future) {
    try {
      return future.get();
    } catch (InterruptedException interrupted) {
      future.cancel(true);
      Thread.currentThread().interrupt();
      throw (CancellationException) new CancellationException("interrupted").initCause(interrupted);
    } catch (ExecutionException failed) {
      throw (VireoException) failed.getCause();
    }
  }

  /** Builds clients. */
  public static final class Builder {
    private final String target;
    private ChannelCredentials credentials;
    private BearerToken token;
    private Duration timeout = Duration.ofSeconds(1);
    private Duration patience = Retries.TABLE.patience();
    private int attempts;

    private Builder(String target) {
      this.target = target;
    }

    /** Uses TLS, and trusts the authorities in a PEM file. */
    public Builder trust(File authorities) throws IOException {
      return credentials(TlsChannelCredentials.newBuilder().trustManager(authorities).build());
    }

    /** Uses credentials of gRPC, for example {@link TlsChannelCredentials} with a certificate of the client. */
    public Builder credentials(ChannelCredentials credentials) {
      this.credentials = credentials;
      return this;
    }

    /** Sends the bearer token that `source` returns, which is called for every attempt, from any thread. Needs TLS. */
    public Builder token(Supplier<String> source) {
      this.token = new BearerToken(source);
      return this;
    }

    /**
     * Sets the timeout of a call, retries included: 1 s by default. Calls that record events or change the catalogue
     * have at least 5 s.
     */
    public Builder timeout(Duration timeout) {
      this.timeout = timeout;
      return this;
    }

    /** Sets for how long the streams of a batch may fail without any slate: 120 s by default. */
    public Builder patience(Duration patience) {
      this.patience = patience;
      return this;
    }

    /** Sets the maximum attempts of a call, 1 to 5: 3 by default. 1 disables all retries but those of batches. */
    public Builder attempts(int attempts) {
      if (attempts < 1 || attempts > MAX_ATTEMPTS) {
        throw new IllegalArgumentException("attempts must be from 1 to 5, not " + attempts);
      }
      this.attempts = attempts;
      return this;
    }

    /** Returns a client, which connects on the first call, and again whenever the connection is lost. */
    public VireoClient build() {
      if (token != null && credentials == null) {
        throw new IllegalStateException("a token must not be sent in plain text: call trust too");
      }
      ChannelCredentials used = credentials == null ? InsecureChannelCredentials.create() : credentials;
      ManagedChannelBuilder<?> channel =
          Grpc.newChannelBuilder(target, used)
              .userAgent("vireo-java")
              // Detects a silently lost connection within 40 s, even without calls.
              .keepAliveTime(30, TimeUnit.SECONDS)
              .keepAliveTimeout(10, TimeUnit.SECONDS)
              .keepAliveWithoutCalls(true);
      if (attempts == 1) {
        channel.disableRetry();
      } else {
        channel.enableRetry().defaultServiceConfig(Retries.serviceConfig(attempts));
      }
      return new VireoClient(channel.build(), this);
    }
  }
}

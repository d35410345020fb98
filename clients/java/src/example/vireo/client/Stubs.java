package example.vireo.client;

import example.vireo.v1.EventServiceGrpc;
import example.vireo.v1.EventServiceGrpc.EventServiceBlockingStub;
import example.vireo.v1.RecommendationServiceGrpc;
import example.vireo.v1.RecommendationServiceGrpc.RecommendationServiceBlockingStub;
import io.grpc.ManagedChannel;
import io.grpc.stub.AbstractStub;
import java.util.concurrent.TimeUnit;

/** Stubs with the token and a deadline, which begins when a stub is made. */
final class Stubs {

  private final ManagedChannel channel;
  private final Options options;

  Stubs(ManagedChannel channel, Options options) {
    this.channel = channel;
    this.options = options;
  }

  RecommendationServiceBlockingStub recommendations() {
    return prepared(RecommendationServiceGrpc.newBlockingStub(channel));
  }

  EventServiceBlockingStub events() {
    return prepared(EventServiceGrpc.newBlockingStub(channel));
  }

  private <S extends AbstractStub<S>> S prepared(S stub) {
    return stub.withCallCredentials(options.target().callCredentials())
        .withDeadlineAfter(options.timeout().toMillis(), TimeUnit.MILLISECONDS);
  }
}

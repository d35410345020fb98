package io.vireo.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.util.Durations;
import com.google.rpc.BadRequest;
import com.google.rpc.RetryInfo;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;

/** A failed call; one of this class itself has a code that no subclass is for. */
public class VireoException extends RuntimeException {

  private static final long serialVersionUID = 1;

  /** The request is invalid: {@link #violations} names the fields. A retry won't help. */
  public static final class InvalidRequest extends VireoException {
    private InvalidRequest(Failure failure) {
      super(failure);
    }
  }

  /** The video is not in the served release. */
  public static final class NotFound extends VireoException {
    private NotFound(Failure failure) {
      super(failure);
    }
  }

  /** The token is missing or invalid. */
  public static final class Unauthenticated extends VireoException {
    private Unauthenticated(Failure failure) {
      super(failure);
    }
  }

  /** The token lacks the scope, or is for another viewer. */
  public static final class PermissionDenied extends VireoException {
    private PermissionDenied(Failure failure) {
      super(failure);
    }
  }

  /** The server shed the request; or, without {@link #retryAfter}, it is too large. */
  public static final class Overloaded extends VireoException {
    private Overloaded(Failure failure) {
      super(failure);
    }
  }

  /** The server is unreachable or not serving yet, or can't store events. */
  public static final class Unavailable extends VireoException {
    private Unavailable(Failure failure) {
      super(failure);
    }
  }

  /** There was no response within the timeout. */
  public static final class DeadlineExceeded extends VireoException {
    private DeadlineExceeded(Failure failure) {
      super(failure);
    }
  }

  private final transient Failure failure;

  private VireoException(Failure failure) {
    super(failure.text(), failure.cause);
    this.failure = failure;
  }

  /** Code of gRPC. */
  public Status.Code code() {
    return failure.code;
  }

  /** The server's message, without code and id. */
  public String description() {
    return failure.description;
  }

  /** The call's id in the server's logs. */
  public String requestId() {
    return failure.requestId;
  }

  /** The invalid fields, at most 20. */
  public List<BadRequest.FieldViolation> violations() {
    return failure.violations;
  }

  /** The server's delay before a retry; empty if it sent none. */
  public Optional<Duration> retryAfter() {
    return Optional.ofNullable(failure.retryAfter);
  }

  /** Returns the exception for a call that failed with whatever gRPC threw. */
  static VireoException of(Throwable thrown, String requestId) {
    Failure failure = new Failure(thrown, requestId);
    switch (failure.code) {
      case INVALID_ARGUMENT:
        return new InvalidRequest(failure);
      case NOT_FOUND:
        return new NotFound(failure);
      case UNAUTHENTICATED:
        return new Unauthenticated(failure);
      case PERMISSION_DENIED:
        return new PermissionDenied(failure);
      case RESOURCE_EXHAUSTED:
        return new Overloaded(failure);
      case UNAVAILABLE:
        return new Unavailable(failure);
      case DEADLINE_EXCEEDED:
        return new DeadlineExceeded(failure);
      default:
        return new VireoException(failure);
    }
  }

  /** What gRPC says of a failed call. */
  private static final class Failure {
    private final Throwable cause;
    private final Status.Code code;
    private final String description;
    private final List<BadRequest.FieldViolation> violations = new ArrayList<>();
    private String requestId;
    private Duration retryAfter;

    private Failure(Throwable thrown, String requestId) {
      Status status = Status.fromThrowable(thrown);
      this.cause = thrown;
      this.code = status.getCode();
      this.description = status.getDescription() == null ? "" : status.getDescription();
      this.requestId = requestId;
      if (thrown instanceof StatusRuntimeException) {
        read(((StatusRuntimeException) thrown).getTrailers());
        StatusProto.fromThrowable(thrown).getDetailsList().forEach(this::read);
      }
    }

    private void read(Metadata trailers) {
      String id = trailers == null ? null : trailers.get(VireoClient.REQUEST_ID);
      requestId = id == null ? requestId : id;
    }

    private void read(Any detail) {
      try {
        if (detail.is(BadRequest.class)) {
          violations.addAll(detail.unpack(BadRequest.class).getFieldViolationsList());
        } else if (detail.is(RetryInfo.class)) {
          retryAfter = Duration.ofNanos(Durations.toNanos(detail.unpack(RetryInfo.class).getRetryDelay()));
        }
      } catch (InvalidProtocolBufferException spoiled) {
        // Corrupted on the way; code and message are still valid.
      }
    }

    private String text() {
      return code + ": " + description + " (request " + requestId + ")";
    }
  }
}

package example.vireo.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.util.Durations;
import com.google.rpc.BadRequest;
import com.google.rpc.Code;
import com.google.rpc.RetryInfo;
import com.google.rpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;

/** Why a call has failed, for people. */
final class Failure {

  private Failure() {}

  /**
   * Code and message, then each field that is wrong and when to come back, where the server says.
   */
  static String explain(StatusRuntimeException failed) {
    Status status = StatusProto.fromThrowable(failed);
    StringBuilder text = new StringBuilder();
    text.append(Code.forNumber(status.getCode())).append(": ").append(status.getMessage());
    for (Any detail : status.getDetailsList()) {
      try {
        append(detail, text);
      } catch (InvalidProtocolBufferException spoiled) {
        // Corrupted on the way; code and message are still valid.
        text.append("\n  (details that can't be read)");
      }
    }
    return text.toString();
  }

  private static void append(Any detail, StringBuilder text) throws InvalidProtocolBufferException {
    if (detail.is(BadRequest.class)) {
      for (BadRequest.FieldViolation each :
          detail.unpack(BadRequest.class).getFieldViolationsList()) {
        text.append("\n  ").append(each.getField()).append(": ").append(each.getDescription());
      }
    } else if (detail.is(RetryInfo.class)) {
      long delay = Durations.toMillis(detail.unpack(RetryInfo.class).getRetryDelay());
      text.append("\n  retry after ").append(delay).append(" ms");
    }
  }
}

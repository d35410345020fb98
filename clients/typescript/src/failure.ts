import type { BadRequest, RetryInfo } from "./gen/google/rpc/error_details_pb.js";

/**
 * Tells why a call has failed: code and message, then each field that is wrong and when to come back,
 * where the server says.
 */
export function explain(
  code: string,
  message: string,
  wrong: readonly BadRequest[],
  retries: readonly RetryInfo[],
): string {
  const violations = wrong.flatMap((each) => each.fieldViolations);
  return [
    `${code}: ${message}`,
    ...violations.map((each) => `  ${each.field}: ${each.description}`),
    ...retries.map(({ retryDelay: delay }) => {
      const milliseconds = Number(delay?.seconds ?? 0n) * 1000 + (delay?.nanos ?? 0) / 1e6;
      return `  retry after ${Math.floor(milliseconds)} ms`;
    }),
  ].join("\n");
}

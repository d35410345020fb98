import retries from "./gen/retries.js";
import type { VireoError } from "./errors.js";

/** What is retried, and after how long; the clients of all languages share it. */
export const TABLE = retries;

const [POLICY] = TABLE.serviceConfig.methodConfig;
const { retryPolicy: RETRY } = POLICY;
const { maxTokens: MAX_TOKENS, tokenRatio: TOKEN_RATIO } = TABLE.serviceConfig.retryThrottling;

/** Maximum attempts of a call unless a client says otherwise. */
export const MAX_ATTEMPTS: number = RETRY.maxAttempts;

/**
 * The retries that all calls of a client share, as gRPC throttles them: none while more than about one in ten
 * attempts fails. They help if a pod is down, not if the service is.
 */
export class RetryBudget {
  private tokens: number = MAX_TOKENS;

  succeeded(): void {
    this.tokens = Math.min(MAX_TOKENS, this.tokens + TOKEN_RATIO);
  }

  /** Counts a failed attempt; returns whether there may be another. */
  failed(): boolean {
    this.tokens = Math.max(0, this.tokens - 1);
    return this.tokens > MAX_TOKENS / 2;
  }
}

/** The retries of one call. */
export class Retries {
  private attempts = 1;
  private repeats: number;
  private readonly retried: boolean;
  private readonly repeated: ReadonlySet<string>;

  constructor(
    service: string,
    method: string,
    private readonly maxAttempts: number,
    private readonly budget: RetryBudget,
  ) {
    this.retried = POLICY.name.some((each) => each.service === service && each.method === method);
    this.repeated = new Set(this.retried ? TABLE.repeat.reads : TABLE.repeat.writes);
    this.repeats = maxAttempts > 1 ? 1 : 0;
  }

  /** Returns the milliseconds to wait before another attempt after one that failed; undefined if there is none. */
  delay(failed: VireoError): number | undefined {
    if (this.retried && (RETRY.retryableStatusCodes as readonly string[]).includes(failed.codeName)) {
      const allowed = this.budget.failed();
      if (!allowed || this.attempts >= this.maxAttempts) {
        return undefined;
      }
      const backoff = parseFloat(RETRY.initialBackoff) * RETRY.backoffMultiplier ** (this.attempts - 1);
      this.attempts += 1;
      return Math.random() * 1000 * Math.min(backoff, parseFloat(RETRY.maxBackoff));
    }
    const tooLarge = failed.codeName === "RESOURCE_EXHAUSTED" && failed.retryAfterMs === undefined;
    if (!this.repeated.has(failed.codeName) || this.repeats === 0 || tooLarge) {
      return undefined;
    }
    this.repeats -= 1;
    return jittered(failed.retryAfterMs ?? TABLE.repeat.delaySeconds * 1000);
  }
}

/** The pauses between the streams of a batch. */
export class BatchPauses {
  private pause: number = TABLE.batch.minPauseSeconds * 1000;
  private failing: number | undefined;

  constructor(private readonly patienceMs: number) {}

  succeeded(): void {
    this.pause = TABLE.batch.minPauseSeconds * 1000;
    this.failing = undefined;
  }

  /** Returns the milliseconds to wait before resuming after a stream that failed; undefined if it is final. */
  delay(failed: VireoError): number | undefined {
    this.failing ??= Date.now();
    const delay = Math.max(this.pause, failed.retryAfterMs ?? 0);
    const tooLarge = failed.codeName === "RESOURCE_EXHAUSTED" && failed.retryAfterMs === undefined;
    const late = Date.now() + delay > this.failing + this.patienceMs;
    if (tooLarge || late || !(TABLE.batch.codes as readonly string[]).includes(failed.codeName)) {
      return undefined;
    }
    this.pause = Math.min(2 * this.pause, TABLE.batch.maxPauseSeconds * 1000);
    return jittered(delay);
  }
}

/** Callers that were shed together must not return together. */
function jittered(delay: number): number {
  return delay * (1 + Math.random() * TABLE.jitter);
}

/** Waits until a delay has passed, or a signal aborts. */
export function sleep(delay: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) {
      resolve();
      return;
    }
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, delay);
    signal?.addEventListener("abort", done);
  });
}

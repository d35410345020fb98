"""The gate before a promotion: is the candidate worse than the current one, beyond chance?

A measure refuses a candidate where it is worse than the current release by more than its margin
and the paired bootstrap over the viewers says that this is no chance. So neither a loss that is
allowed nor one that is noise stops anybody. But a loss of several margins stops it even where it
may be noise: too few viewers to tell are no proof that nothing was lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]

CONFIDENCE = 0.95
_RESAMPLES = 1_000

Verdict = Literal["better", "no worse", "within margin", "within noise", "inconclusive", "worse"]


@dataclass(frozen=True)
class Margins:
    """How much worse than the current release a candidate may be, by measure."""

    ndcg_10: float = 0.02
    """Share of the current NDCG@10 that may be lost: about what two seeds differ by."""
    recall_100: float = 0.02
    """Share of the current Recall@100 that may be lost."""
    coverage_10: float = 0.10
    """Share of the current coverage of the first ten places that may be lost."""
    calibration_error: float = 0.01
    """How much the calibration error of watch probabilities may grow, as it is."""
    inference_p50: float = 0.25
    """Share by which the median processor time of viewer tower and ranker may grow: a budget, and
    wide enough for what a busy machine does to two measurements."""
    inconclusive: float = 3.0
    """How many margins a loss may be that may be chance; a larger one is refused all the same."""


@dataclass(frozen=True)
class Measured:
    """What one release did for v test viewers, in their order."""

    release_id: str
    gains: Float64Array
    """What each adds to NDCG@10, float64[v]."""
    hits: Float64Array
    """Whether the held-out video was among the first hundred, float64[v]."""
    slates: Int64Array
    """Rows of the first ten, int64[v, 10], -1 for none."""
    videos: int
    """Size of its catalogue."""
    predicted: Float64Array
    """Sum of the watch probabilities in each of b bins of probability, float64[v, b]."""
    observed: Float64Array
    """How many of these were watched, float64[v, b]."""
    predictions: Float64Array
    """How many probabilities there are, float64[v]."""
    seconds: Float64Array
    """Processor time of viewer tower and ranker for some of the viewers, float64[t]."""


@dataclass(frozen=True)
class Check:
    """One measure of the current release and of the candidate."""

    measure: str
    now: float
    candidate: float
    change: float
    """Candidate less current."""
    low: float
    high: float
    """Interval of the change at CONFIDENCE."""
    margin: float
    """Largest change for the worse that is allowed, in the measure's unit."""
    verdict: Verdict
    refused: bool = False
    """Whether it stands against the promotion: worse, or inconclusive and far beyond the margin."""


@dataclass(frozen=True)
class GateResult:
    """What the gate says of a promotion."""

    outcome: Literal["passed", "refused", "not comparable", "nothing to compare"]
    checks: tuple[Check, ...] = ()
    """Empty where nothing was measured."""
    viewers: int = 0
    """How many viewers both releases were asked for."""
    reason: str = ""
    """Why nothing was measured, or what to know of what was."""

    @property
    def passed(self) -> bool:
        """Whether the promotion may go on by itself."""
        return self.outcome in ("passed", "nothing to compare")

    @property
    def findings(self) -> tuple[str, ...]:
        """What stands against the promotion, a line each; empty where nothing does."""
        if self.outcome == "not comparable":
            return (self.reason,)
        return tuple(_finding(check) for check in self.checks if check.refused)

    def as_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {**asdict(self), "passed": self.passed, "findings": list(self.findings)}


def judge(now: Measured, candidate: Measured, margins: Margins | None = None) -> GateResult:
    """Compares two releases measured on the same viewers, at least one."""
    margins = margins or Margins()
    of_viewers = list(_draws(len(now.gains)))
    of_times = list(_draws(len(now.seconds)))
    checks = []
    for measure, of, draws, relative, sign in (
        ("ndcg_10", _ndcg, of_viewers, True, 1),
        ("recall_100", _recall, of_viewers, True, 1),
        ("coverage_10", _coverage, of_viewers, True, 1),
        ("calibration_error", _calibration_error, of_viewers, False, -1),
        ("inference_p50", _inference_p50, of_times, True, -1),
    ):
        margin = getattr(margins, measure)
        check = _check(measure, of, (now, candidate), draws, margin, relative, sign)
        far = -sign * check.change > margins.inconclusive * check.margin
        refuses = check.verdict == "worse" or (check.verdict == "inconclusive" and far)
        checks.append(replace(check, refused=refuses))
    refused = any(check.refused for check in checks)
    return GateResult("refused" if refused else "passed", tuple(checks), len(now.gains))


Statistic = Callable[[Measured, Int64Array], float]
"""A measure of viewers who are each counted so many times."""


def _check(
    measure: str,
    of: Statistic,
    pair: tuple[Measured, Measured],
    draws: list[Int64Array],
    margin: float,
    relative: bool,
    sign: int,
) -> Check:
    """Compares one measure; `sign` is 1 where more is better, -1 where less is."""
    everyone = np.ones_like(draws[0])
    now, candidate = (of(each, everyone) for each in pair)
    changes = [of(pair[1], times) - of(pair[0], times) for times in draws]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(changes, [tail, 1 - tail]).tolist()
    allowed = margin * abs(now) if relative else margin
    change = candidate - now
    gain, worst, best = sign * change, min(sign * low, sign * high), max(sign * low, sign * high)
    verdict: Verdict
    if not np.isfinite((now, candidate, low, high, allowed)).all():
        verdict = "worse"  # a number that can't be compared proves nothing
    elif gain >= 0:
        verdict = "better" if worst > 0 else "no worse"
    elif best >= 0:
        verdict = "within noise" if -gain <= allowed else "inconclusive"
    else:
        verdict = "worse" if -gain > allowed else "within margin"
    return Check(measure, now, candidate, change, low, high, allowed, verdict)


def _finding(check: Check) -> str:
    """What stands against a promotion, of one measure that refuses it."""
    found = (
        f"{check.measure} {check.candidate:.4g} instead of {check.now:.4g}, "
        f"at most {check.margin:.4g} worse is allowed"
    )
    if check.verdict == "inconclusive":
        found += " (it may be noise: ask more viewers with --viewers)"
    return found


def _draws(count: int) -> Iterator[Int64Array]:
    """How often each of `count` is drawn in each resample; the same every time."""
    random = np.random.default_rng(0)
    for _ in range(_RESAMPLES):
        yield np.bincount(random.integers(0, count, count), minlength=count)


def _ndcg(measured: Measured, times: Int64Array) -> float:
    return float(times @ measured.gains / times.sum())


def _recall(measured: Measured, times: Int64Array) -> float:
    return float(times @ measured.hits / times.sum())


def _coverage(measured: Measured, times: Int64Array) -> float:
    # One place more, for the -1 of slates that are short.
    seen = np.zeros(measured.videos + 1, bool)
    seen[measured.slates[times > 0]] = True
    return float(seen[:-1].sum() / measured.videos)


def _calibration_error(measured: Measured, times: Int64Array) -> float:
    gaps = np.abs(times @ measured.predicted - times @ measured.observed)
    return float(gaps.sum() / max(times @ measured.predictions, 1.0))


def _inference_p50(measured: Measured, times: Int64Array) -> float:
    return float(np.median(np.repeat(measured.seconds, times)))

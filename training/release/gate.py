"""The promotion gate: is the candidate significantly worse than the current release?

A measure refuses a candidate if the loss exceeds its margin and is significant in a paired
bootstrap over viewers. Losses within the margin pass, and so does noise, unless the loss exceeds
several margins: too few viewers for significance don't prove that nothing was lost.

Allowed losses must not add up. A candidate worse than the current release is therefore also
compared, by the same rule, with the best figures that the channel's releases reached on the same
watches. One that is no worse than the current release never fails this comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from server.arrays import Int64Array
from server.releases.channel_document import MAX_BEST_FIGURES, BestFigures
from training.release.gate_measures import MEASURES, Measure, Measured

CONFIDENCE = 0.95
_RESAMPLES = 1_000

Verdict = Literal[
    "better", "no worse", "within margin", "within noise", "inconclusive", "worse", "below the best"
]


@dataclass(frozen=True)
class Margins:
    """Allowed losses against the current release, by measure."""

    ndcg_10: float = 0.02
    """Allowed relative loss of NDCG@10."""
    recall_100: float = 0.02
    """Allowed relative loss of Recall@100."""
    coverage_10: float = 0.10
    """Allowed relative loss of the top ten's catalogue coverage."""
    log_loss: float = 0.01
    """Allowed relative increase of the log loss of watch or like probabilities: more than between
    seeds, less than from predicting twice or half the observed watches."""
    miscalibration: float = 0.1
    """Allowed absolute increase of the ratio of predicted to observed watches or likes, for example
    from 1.05 to 1.15. Another seed changes it by much less."""
    inference_p50: float = 0.25
    """Allowed relative increase of the median CPU time of viewer tower and ranker: a budget, wide
    enough for measurement noise on a busy machine."""
    inconclusive: float = 3.0
    """Maximum insignificant loss, in margins; a larger one is refused anyway."""


@dataclass(frozen=True)
class Check:
    """One measure of both releases and its verdict."""

    measure: str
    now: float
    candidate: float
    change: float
    """Candidate minus current."""
    low: float
    high: float
    """Bounds of the change's CONFIDENCE interval."""
    margin: float
    """Maximum allowed loss, in the measure's unit."""
    verdict: Verdict
    best: float | None = None
    """Best figure kept by the channel; None if it keeps none for this measure."""
    refused: bool = False
    """Whether this measure refuses the promotion."""


@dataclass(frozen=True)
class GateResult:
    """The gate's result for a promotion."""

    outcome: Literal["passed", "refused", "not comparable", "nothing to compare"]
    checks: tuple[Check, ...] = ()
    """Empty if nothing was measured."""
    viewers: int = 0
    """Number of viewers that both releases were measured on."""
    held_out: str = ""
    """Fingerprint of these viewers' held-out watches."""
    reason: str = ""
    """Why nothing was measured, or a note on the measurement."""

    @property
    def passed(self) -> bool:
        """Whether the promotion may proceed without an override."""
        return self.outcome in ("passed", "nothing to compare")

    @property
    def findings(self) -> tuple[str, ...]:
        """Reasons against the promotion, one line each; empty if there are none."""
        if self.outcome == "not comparable":
            return (self.reason,)
        return tuple(_finding(check) for check in self.checks if check.refused)

    def best_figures(self, kept: Sequence[BestFigures]) -> tuple[BestFigures, ...]:
        """Return the best figures that a channel keeps after the promotion, latest first.

        Figures in `kept` of other watches stay. An override keeps only the candidate's own figures:
        it accepts the loss, and later releases are compared with this one.
        """
        others = [each for each in kept if self.passed and each.held_out != self.held_out]
        if not self.checks:
            return tuple(others)
        figures = {}
        for check in self.checks:
            measure = MEASURES[check.measure]
            known = [check.candidate]
            if self.passed:
                known += [check.now] if check.best is None else [check.now, check.best]
            best = max(known) if measure.sign > 0 else min(known)
            if measure.lasting and np.isfinite(best):
                figures[check.measure] = best
        latest = BestFigures(held_out=self.held_out, figures=figures)
        return (latest, *others)[:MAX_BEST_FIGURES]

    def as_json(self) -> dict[str, Any]:
        """Return the result as `--json` prints it."""
        return {**asdict(self), "passed": self.passed, "findings": list(self.findings)}


def judge(
    now: Measured,
    candidate: Measured,
    margins: Margins | None = None,
    best: Sequence[BestFigures] = (),
) -> GateResult:
    """Compare two releases measured on the same viewers, at least one.

    The best figures that the channel keeps, `best`, count only if they are of the same watches.
    """
    margins = margins or Margins()
    same_watches = (each.figures for each in best if each.held_out == candidate.held_out)
    kept: dict[str, float] = next(same_watches, {})
    of_viewers = list(_draws(len(now.gains)))
    of_times = list(_draws(len(now.seconds)))
    checks = []
    for name, measure in MEASURES.items():
        predicted = candidate.predictions.get(measure.task)
        if measure.task and (predicted is None or not predicted.observed.any()):
            continue
        draws = of_times if name == "inference_p50" else of_viewers
        checks.append(_check(name, measure, (now, candidate), draws, margins, kept.get(name)))
    refused = any(check.refused for check in checks)
    return GateResult(
        "refused" if refused else "passed", tuple(checks), len(now.gains), candidate.held_out
    )


def _check(
    name: str,
    measure: Measure,
    pair: tuple[Measured, Measured],
    draws: list[Int64Array],
    margins: Margins,
    best: float | None,
) -> Check:
    everyone = np.ones_like(draws[0])
    now, candidate = (measure.of(each, everyone) for each in pair)
    changes = [measure.of(pair[1], times) - measure.of(pair[0], times) for times in draws]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(changes, [tail, 1 - tail]).tolist()

    def allowed(reference: float) -> float:
        margin: float = getattr(margins, measure.margin)
        return margin * abs(reference) if measure.relative else margin

    def judged(reference: float) -> tuple[Verdict, bool]:
        """Return the verdict against a reference, and whether it refuses the candidate.

        The current release's distance from the reference is known exactly on these watches, so
        the interval is that of the change, shifted by this distance.
        """
        gain = measure.sign * (candidate - reference)
        lower, upper = sorted(measure.sign * (end + now - reference) for end in (low, high))
        verdict = _verdict(gain, lower, upper, allowed(reference))
        far = -gain > margins.inconclusive * allowed(reference)
        return verdict, verdict == "worse" or (verdict == "inconclusive" and far)

    change = candidate - now
    verdict, refused = judged(now)
    reached = [now] if best is None else [now, best]
    highest = max(reached) if measure.sign > 0 else min(reached)
    if measure.sign * change < 0 and not refused and judged(highest)[1]:
        verdict, refused = "below the best", True
    return Check(name, now, candidate, change, low, high, allowed(now), verdict, best, refused)


def _verdict(gain: float, lower: float, upper: float, allowed: float) -> Verdict:
    """Return the verdict on a gain, negative for a loss, with interval [`lower`, `upper`]."""
    if not np.isfinite((gain, lower, upper, allowed)).all():
        return "worse"  # a figure that can't be compared proves nothing
    if gain >= 0:
        return "better" if lower > 0 else "no worse"
    if upper >= 0:
        return "within noise" if -gain <= allowed else "inconclusive"
    return "worse" if -gain > allowed else "within margin"


def _finding(check: Check) -> str:
    if check.verdict == "below the best":
        return (
            f"{check.measure} {check.candidate:.4g}, but this channel reached {check.best:.4g} on "
            f"the same watches: losses since then add up to more than is allowed"
        )
    found = (
        f"{check.measure} {check.candidate:.4g} instead of {check.now:.4g}, "
        f"at most {check.margin:.4g} worse is allowed"
    )
    if check.verdict == "inconclusive":
        found += " (it may be noise: ask more viewers with --viewers)"
    return found


def _draws(count: int) -> Iterator[Int64Array]:
    """Yield how often each of `count` items is drawn in each resample; deterministic."""
    random = np.random.default_rng(0)
    for _ in range(_RESAMPLES):
        yield np.bincount(random.integers(0, count, count), minlength=count)

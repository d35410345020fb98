"""The promotion gate: has the candidate lost more than is allowed against the current release?

A measure refuses a candidate only if its loss is shown to exceed the margin of non-inferiority. Two
things make a loss uncertain: viewers are a sample, which a paired bootstrap tells, and trainings
differ by their seeds (`Measure.seeds`). The allowed probability of refusing a release that lost no
more than the margins is split over all tests (Bonferroni). So with few viewers a measure can't tell
each loss beyond its margin; it says which it can. A test of non-inferiority proper, which passes
only what is shown to have lost less, would refuse most equal releases then.

Allowed losses must not add up. A candidate worse than the current release is therefore also
compared, by the same rule, with the best figures that the channel's releases are shown to have
reached on the same watches. One that is no worse than the current release never fails this
comparison.

The release that is served is another fit than the measured one. It is refused if it differs from
its measured twin more than seeds do (`LIKENESS`). A channel's first release is judged by this.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

import numpy as np

from vireo.server.arrays import Int64Array
from vireo.server.releases.channels import MAX_BEST_FIGURES, BestFigures
from vireo.server.releases.gate_measures import LIKENESS, MEASURES, Measure, Measured

MAX_FALSE_REFUSALS = 0.05
"""Maximum probability of refusing a release that lost no more than the margins."""
FIRST = "it is the channel's first release"
"""Reason of a result without a comparison with a current release."""
_POWER = NormalDist().inv_cdf(0.95)
_RESAMPLES = 400
"""They tell a standard deviation to 4%."""

Verdict = Literal["better", "no worse", "worse", "below the best", "not judged", "alike", "unlike"]


@dataclass(frozen=True)
class Check:
    """One measure of both releases and its verdict.

    The likeness of a fit to its measured twin is a candidate's figure, too, beside 1 for "now".
    """

    measure: str
    now: float
    candidate: float
    change: float
    """Candidate minus current."""
    margin: float
    """Maximum allowed loss, in the measure's unit."""
    noise: float
    """Loss that viewers and seeds alone can cause: a loss beyond margin plus noise is refused."""
    tells: float
    """The smallest loss that the measure can tell: a release that lost as much is refused in 19 of
    20 cases. Losing twice that makes up for the noise that a large loss adds."""
    verdict: Verdict
    best: float | None = None
    """Best figure kept by the channel; None if it keeps none for this measure."""
    refused: bool = False
    """Whether this measure refuses the promotion."""

    @property
    def blurred(self) -> bool:
        """Whether noise hides losses that exceed the margin."""
        return self.noise > self.margin and self.verdict != "not judged"


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
    false_refusals: float = 0.0
    """Estimated probability of refusing a release that equals the current one, at most."""

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

        A figure rises only if the candidate is shown to be better: the luckiest of many equal
        releases would be a reference that the next equal one fails. Figures in `kept` of other
        watches stay. An override keeps only the candidate's own figures: it accepts the loss, and
        later releases are compared with this one.
        """
        others = [each for each in kept if self.passed and each.held_out != self.held_out]
        figures = {}
        for check in self.checks:
            measure = MEASURES.get(check.measure)
            if measure is None or not measure.lasting:
                continue
            best = check.now if check.best is None else check.best
            if not self.passed or measure.sign * (check.candidate - best) > check.noise:
                best = check.candidate
            if np.isfinite(best):
                figures[check.measure] = best
        if not figures:
            return tuple(others)
        latest = BestFigures(held_out=self.held_out, figures=figures)
        return (latest, *others)[:MAX_BEST_FIGURES]


def judge(
    now: Measured | None,
    candidate: Measured,
    best: Sequence[BestFigures] = (),
    served: Measured | None = None,
) -> GateResult:
    """Compare releases measured on the same viewers, at least one.

    Args:
        now: the current release; None for a channel's first, of which the likeness alone counts.
        candidate: the release to promote, or its measured twin.
        best: best figures that the channel keeps; they count only if they are of the same watches.
        served: the fit that is served, if `candidate` is its measured twin.
    """
    checks: list[Check] = []
    false_refusals = 0.0
    if now is not None:
        checks, false_refusals = _compared(now, candidate, best)
    if served is not None:
        checks += _likenesses(now, candidate, served)
    return GateResult(
        "refused" if any(check.refused for check in checks) else "passed",
        tuple(checks),
        len(candidate.gains),
        candidate.held_out,
        "" if now else FIRST,
        false_refusals,
    )


def _compared(
    now: Measured, candidate: Measured, best: Sequence[BestFigures]
) -> tuple[list[Check], float]:
    """Return the checks of two releases, and the estimated probability of a false refusal."""
    same_watches = (each.figures for each in best if each.held_out == candidate.held_out)
    kept = {
        name: figure
        for name, figure in next(same_watches, {}).items()
        if name in MEASURES and MEASURES[name].lasting
    }
    measures = {
        name: measure
        for name, measure in MEASURES.items()
        if not measure.task
        or (
            (predicted := candidate.predictions.get(measure.task)) is not None
            and predicted.observed.any()
        )
    }
    judged = {name for name, each in measures.items() if candidate.weights.get(each.task, 1.0)}
    tests = len(judged) + len(judged & kept.keys())
    quantile = NormalDist().inv_cdf(1 - MAX_FALSE_REFUSALS / tests)
    of_viewers, of_times = list(_draws(len(now.gains))), list(_draws(len(now.seconds)))
    checks = []
    false_refusals = 0.0
    for name, measure in measures.items():
        draws = of_times if name == "inference_p50" else of_viewers
        check = _check(name, measure, (now, candidate), draws, quantile, kept.get(name))
        if name not in judged:
            check = replace(check, verdict="not judged", refused=False)
        elif 0 < check.noise < math.inf:
            beyond = NormalDist().cdf(-quantile * (1 + check.margin / check.noise))
            false_refusals += beyond * (1 + (name in kept))
        checks.append(check)
    return checks, false_refusals


def _check(
    name: str,
    measure: Measure,
    pair: tuple[Measured, Measured],
    draws: list[Int64Array],
    quantile: float,
    best: float | None,
) -> Check:
    everyone = np.ones_like(draws[0])
    now, candidate = (measure.of(each, everyone) for each in pair)
    changes = [measure.of(pair[1], times) - measure.of(pair[0], times) for times in draws]
    unit = abs(now) if measure.relative else 1.0
    # Both releases have a seed.
    deviation = math.hypot(float(np.std(changes)), math.sqrt(2) * measure.seeds * unit)
    margin, noise = max(measure.margin * unit, measure.min_margin), quantile * deviation
    loss = measure.sign * (now - candidate)
    below = loss if best is None else measure.sign * (best - candidate)
    verdict: Verdict = "better" if loss < -noise else "no worse"
    # A figure that can't be compared proves nothing.
    if loss > margin + noise or not np.isfinite((now, candidate, deviation)).all():
        verdict = "worse"
    elif loss > 0 and below > margin + noise:
        verdict = "below the best"
    refused = verdict in ("worse", "below the best")
    tells, change = margin + noise + _POWER * deviation, candidate - now
    return Check(name, now, candidate, change, margin, noise, tells, verdict, best, refused)


def _likenesses(now: Measured | None, twin: Measured, served: Measured) -> Iterator[Check]:
    """Yield a check of each likeness of a served fit to its measured twin.

    Trainings differ more where data are sparser than those that the bounds are of. There the
    likeness of the twin to the current release, which is another training, lowers the bound, by
    half at most, and by half if there is no current release.
    """
    for name, (alike, usual) in LIKENESS.items():
        bound = max(usual / 2, min(usual, 0.8 * alike(now, twin) if now else 0.0))
        found = alike(twin, served)
        verdict: Verdict = "alike" if found >= bound else "unlike"
        unlike = verdict == "unlike"
        margin = 1 - bound
        yield Check(name, 1.0, found, found - 1, margin, 0.0, margin, verdict, refused=unlike)


def _finding(check: Check) -> str:
    if check.verdict == "below the best":
        return (
            f"{check.measure} {check.candidate:.4g}, but this channel reached {check.best:.4g} on "
            f"the same watches: losses since then add up to more than is allowed"
        )
    if check.verdict == "unlike":
        return (
            f"{check.measure} {check.candidate:.4g}: the fit that would be served differs from its "
            f"measured twin more than seeds do, at least {1 - check.margin:.4g} is required"
        )
    return (
        f"{check.measure} {check.candidate:.4g} instead of {check.now:.4g}, at most "
        f"{check.margin:.4g} worse is allowed, and {check.noise:.4g} may be noise"
    )


def _draws(count: int) -> Iterator[Int64Array]:
    """Yield how often each of `count` items is drawn in each resample; deterministic."""
    random = np.random.default_rng(0)
    for _ in range(_RESAMPLES):
        yield np.bincount(random.integers(0, count, count), minlength=count)

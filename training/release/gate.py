"""The gate before a promotion: is the candidate worse than the current one, beyond chance?

A measure refuses a candidate if it is worse than the current release by more than its margin and
the paired bootstrap over the viewers says that this is no chance. So neither a loss that is
allowed nor one that is noise stops anybody. But a loss of several margins stops it even if it may
be noise: too few viewers to tell are no proof that nothing was lost.

Losses that are each allowed must not add up. A candidate that is worse than the current release is
held, by the same rule, against the best figures that the channel's releases reached on the same
watches as well. One that is no worse than the current release never fails for these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from server.releases.channel_document import MAX_BEST_FIGURES, BestFigures
from training.release.gate_measures import MEASURES, Measure, Measured

Int64Array = npt.NDArray[np.int64]

CONFIDENCE = 0.95
_RESAMPLES = 1_000

Verdict = Literal[
    "better", "no worse", "within margin", "within noise", "inconclusive", "worse", "below the best"
]


@dataclass(frozen=True)
class Margins:
    """How much worse than the current release a candidate may be, by measure."""

    ndcg_10: float = 0.02
    """Share of the current NDCG@10 that may be lost."""
    recall_100: float = 0.02
    """Share of the current Recall@100 that may be lost."""
    coverage_10: float = 0.10
    """Share of the current coverage of the first ten places that may be lost."""
    log_loss: float = 0.01
    """Share of the current log loss of watch or like probabilities that may be added: more than
    seeds differ by, and less than what twice or half as many watches as happen add."""
    miscalibration: float = 0.1
    """How much the factor by which predicted and observed watches or likes differ may grow, as it
    is: from 1.05 to 1.15. Another seed changes it by much less."""
    inference_p50: float = 0.25
    """Share by which the median processor time of viewer tower and ranker may grow: a budget, and
    wide enough for what a busy machine does to two measurements."""
    inconclusive: float = 3.0
    """How many margins a loss may be that may be chance; a larger one is refused anyway."""


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
    best: float | None = None
    """Best figure that the channel keeps; None if there is none of this measure."""
    refused: bool = False
    """Whether it stands against the promotion."""


@dataclass(frozen=True)
class GateResult:
    """What the gate says of a promotion."""

    outcome: Literal["passed", "refused", "not comparable", "nothing to compare"]
    checks: tuple[Check, ...] = ()
    """Empty if nothing was measured."""
    viewers: int = 0
    """How many viewers both releases were asked for."""
    held_out: str = ""
    """Fingerprint of these viewers' held-out watches."""
    reason: str = ""
    """Why nothing was measured, or what to know of what was."""

    @property
    def passed(self) -> bool:
        """Whether the promotion may go on by itself."""
        return self.outcome in ("passed", "nothing to compare")

    @property
    def findings(self) -> tuple[str, ...]:
        """What stands against the promotion, a line each; empty if nothing does."""
        if self.outcome == "not comparable":
            return (self.reason,)
        return tuple(_finding(check) for check in self.checks if check.refused)

    def best_figures(self, kept: Sequence[BestFigures]) -> tuple[BestFigures, ...]:
        """Return what a channel keeps once it names the candidate, the latest measured first.

        The best figures on other watches stay as they are. After a promotion against the gate
        only the candidate's own figures are left: whoever overrides it accepts the loss, and what
        follows is held against that release.

        Args:
            kept: what the channel kept before.
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
        """As `--json` prints it."""
        return {**asdict(self), "passed": self.passed, "findings": list(self.findings)}


def judge(
    now: Measured,
    candidate: Measured,
    margins: Margins | None = None,
    best: Sequence[BestFigures] = (),
) -> GateResult:
    """Compare two releases measured on the same viewers, at least one.

    Args:
        now: what the current release did.
        candidate: what the one did that may follow it.
        margins: how much worse is allowed; the defaults if None.
        best: what the channel keeps; what was measured on the same watches counts.
    """
    margins = margins or Margins()
    same_watches = (each.figures for each in best if each.held_out == candidate.held_out)
    kept: dict[str, float] = next(same_watches, {})
    of_viewers = list(_draws(len(now.gains)))
    of_times = list(_draws(len(now.seconds)))
    checks = []
    for name, measure in MEASURES.items():
        if measure.task and not candidate.predictions[measure.task].observed.any():
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
    """Judge one measure."""
    everyone = np.ones_like(draws[0])
    now, candidate = (measure.of(each, everyone) for each in pair)
    changes = [measure.of(pair[1], times) - measure.of(pair[0], times) for times in draws]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(changes, [tail, 1 - tail]).tolist()

    def allowed(reference: float) -> float:
        margin: float = getattr(margins, measure.margin)
        return margin * abs(reference) if measure.relative else margin

    def judged(reference: float) -> tuple[Verdict, bool]:
        """Return the verdict against a figure, and whether it refuses the candidate.

        How far the current release is from that figure is known, on these very watches; so the
        interval is that of the change, moved by as much.
        """
        gain = measure.sign * (candidate - reference)
        worst, most = sorted(measure.sign * (end + now - reference) for end in (low, high))
        verdict = _verdict(gain, worst, most, allowed(reference))
        far = -gain > margins.inconclusive * allowed(reference)
        return verdict, verdict == "worse" or (verdict == "inconclusive" and far)

    change = candidate - now
    verdict, refused = judged(now)
    reached = [now] if best is None else [now, best]
    highest = max(reached) if measure.sign > 0 else min(reached)
    if measure.sign * change < 0 and not refused and judged(highest)[1]:
        verdict, refused = "below the best", True
    return Check(name, now, candidate, change, low, high, allowed(now), verdict, best, refused)


def _verdict(gain: float, worst: float, most: float, allowed: float) -> Verdict:
    """Return the verdict on a gain, negative for a loss, that is between `worst` and `most`."""
    if not np.isfinite((gain, worst, most, allowed)).all():
        return "worse"  # a number that can't be compared proves nothing
    if gain >= 0:
        return "better" if worst > 0 else "no worse"
    if most >= 0:
        return "within noise" if -gain <= allowed else "inconclusive"
    return "worse" if -gain > allowed else "within margin"


def _finding(check: Check) -> str:
    """Return what stands against a promotion, of one measure that refuses it."""
    if check.verdict == "below the best":
        return (
            f"{check.measure} {check.candidate:.4g} where this channel has had {check.best:.4g} on "
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
    """How often each of `count` is drawn in each resample; the same every time."""
    random = np.random.default_rng(0)
    for _ in range(_RESAMPLES):
        yield np.bincount(random.integers(0, count, count), minlength=count)

"""Whether a model is served in int8: where lists hardly change, and it is worth it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from server.releases.precision import Difference, ModelPrecision, Precision
from training.evaluation.chain import list_ranks
from training.evaluation.metrics import ndcg, recall
from training.release.config import PrecisionChoice

TIME = "milliseconds"
_SLATE = 10

Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bounds:
    """How much worse than float32 a model in int8 may be, and how much faster it must be.

    They are tighter than those by which a release may follow another, since nothing is won but
    time; and wider than what the order of sums can change.
    """

    viewers: int = 100
    """Fewest to compare on: ten places of fewer viewers don't tell one part in a hundred."""
    overlap: float = 0.05
    """Share of the lists that may be other videos: of ten, one for every second viewer. Those that
    come and go score nearly alike."""
    ndcg: float = 0.01
    """Share of NDCG@10, half of what the gate lets a release lose. Of ways to round the towers of
    ml-100k and ml-1m some came out 0.5% worse and others 0.6% better, in no order of how much they
    round: so much is chance."""
    recall: float = 0.01
    """Share of the recall of all candidates: what isn't retrieved can't be ranked."""
    calibration: float = 0.002
    """Of each task's expected calibration error, a fifth of the gate's. Probabilities are told to
    callers and multiplied into scores, and an order says nothing of them."""
    time: float = -0.2
    """Share of the processor's time, which must be a fifth less at least. Less isn't worth lists
    that aren't quite those of the trained model; and small models gain a tenth in one run and
    less in the next, so that the same training would give one precision or the other."""


BOUNDS = Bounds()


@dataclass(frozen=True)
class Answers:
    """What both variants of a model answered v viewers."""

    float32: Int64Array
    """Rows, best first, int64[v, n], -1 for none."""
    int8: Int64Array
    targets: Int64Array
    """Row of what each viewer watched next, int64[v]; below -1 where no list can have it."""
    calibration_errors: tuple[Mapping[str, float], Mapping[str, float]] = ({}, {})
    """By task, of float32 and of int8, where the model gives probabilities."""


def time_difference(seconds: Float64Array, bounds: Bounds) -> Difference:
    """In milliseconds, from what float32 and int8 took for each viewer, float64[2, v]."""
    float32, int8 = np.median(seconds, axis=1) * 1e3
    # The median of viewers' own ratios: they have histories of all lengths.
    ratio = float(np.median(seconds[1] / seconds[0]))
    return Difference(
        float32=float(float32), int8=float(int8), worse_by=ratio - 1, allowed=bounds.time
    )


def differences(answers: Answers, bounds: Bounds) -> dict[str, Difference]:
    """What int8 changes: `overlap_10`, `ndcg_10` and the tasks' calibration errors.

    Where the lists are longer than ten, `overlap` and `recall` of the whole lists as well.
    """
    float32, int8, width = answers.float32, answers.int8, answers.float32.shape[1]
    plain, rounded = (list_ranks(lists, answers.targets) for lists in (float32, int8))
    found = {
        "overlap_10": _overlap(float32[:, :_SLATE], int8[:, :_SLATE], bounds.overlap),
        "ndcg_10": _share(ndcg(plain, _SLATE), ndcg(rounded, _SLATE), bounds.ndcg),
    }
    if width > _SLATE:
        found["overlap"] = _overlap(float32, int8, bounds.overlap)
        found["recall"] = _share(recall(plain, width), recall(rounded, width), bounds.recall)
    errors, others = answers.calibration_errors
    for task in errors:
        found[f"{task}_calibration_error"] = Difference(
            float32=errors[task],
            int8=others[task],
            worse_by=others[task] - errors[task],
            allowed=bounds.calibration,
        )
    return found


def _share(float32: float, int8: float, allowed: float) -> Difference:
    """A measure that should be high, and what share of it is lost."""
    lost = (float32 - int8) / float32 if float32 else 0.0
    return Difference(float32=float32, int8=int8, worse_by=lost, allowed=allowed)


def _overlap(float32: Int64Array, int8: Int64Array, allowed: float) -> Difference:
    """The mean share of each viewer's list that the other has too."""
    shares = [
        len(np.intersect1d(one[one >= 0], other[other >= 0])) / max(1, int((one >= 0).sum()))
        for one, other in zip(float32, int8, strict=True)
        if (one >= 0).any()
    ]
    kept = float(np.mean(shares)) if shares else 0.0
    return Difference(float32=1.0, int8=kept, worse_by=1 - kept, allowed=allowed)


def decided(
    choice: PrecisionChoice, measures: Mapping[str, Difference], viewers: int, bounds: Bounds
) -> ModelPrecision:
    """The precision of a model whose variants were compared on so many viewers.

    Args:
        choice: the profile's.
        measures: what was measured, `milliseconds` among it where anything was.
        viewers: how many there are to compare on.
        bounds: see there.
    """
    outside = [
        f"{name} is worse by {measure.worse_by:.4f}"
        for name, measure in measures.items()
        # Written so that not-a-number is outside.
        if name != TIME and not measure.worse_by <= measure.allowed
    ]
    share = 1 + measures[TIME].worse_by if TIME in measures else 1.0
    chosen: Precision = "float32"
    if choice != "auto":
        chosen, why = choice, "the profile says so"
    elif viewers < bounds.viewers:
        why = f"{viewers} viewers to compare on, and {bounds.viewers} are needed"
    elif not share <= 1 + bounds.time:
        why = f"int8 takes {share:.2f} of the time, and {1 + bounds.time:.2f} is worth it"
    elif outside:
        why = f"in int8 {', '.join(outside)}"
    else:
        chosen, why = "int8", f"it ranks as float32 does in {share:.2f} of the time"
    return ModelPrecision(chosen=chosen, why=why, viewers=viewers, measures=dict(measures))

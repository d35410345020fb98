"""The gate's checks as a table: measure, now, new, change, margin, verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from vireo.ops.cli.output import print_table, table_of

if TYPE_CHECKING:
    from vireo.server.releases.gate import Check, GateResult

_TITLES = {
    "ndcg_10": "NDCG@10",
    "recall_100": "Recall@100",
    "coverage_10": "Coverage@10",
    "watch_log_loss": "watch log loss",
    "watch_miscalibration": "watches, off by",
    "like_log_loss": "like log loss",
    "like_miscalibration": "likes, off by",
    "finish_log_loss": "finish log loss",
    "finish_miscalibration": "finishes, off by",
    "hide_log_loss": "hide log loss",
    "hide_miscalibration": "hides, off by",
    "inference_p50": "inference p50, ms",
    "fit_overlap_10": "served fit: top 10",
    "fit_overlap_100": "served fit: top 100",
    "fit_coverage_10": "served fit: coverage",
    "fit_scale": "served fit: scale",
}
_LESS_IS_BETTER = ("log_loss", "miscalibration", "p50")


def print_gate(result: GateResult, now: str | None, candidate: str) -> None:
    """Print the comparison, or why there is none."""
    console = Console(highlight=False)
    if not result.checks:
        why = "nothing to compare with" if result.passed else "not comparable"
        console.print(f"gate: {why}: {result.reason}", soft_wrap=True, markup=False)
        return
    other = now or "its measured twin"
    compared = f"{candidate} against {other}: {result.viewers:,} viewers' held-out watches"
    console.print(compared, soft_wrap=True, markup=False)
    numbers = ("now", "new", "change", "margin", "can tell")
    table = table_of("measure", *numbers, "verdict", numbers=numbers, tight=True)
    for check in result.checks:
        table.add_row(*_row(check))
    print_table(table, console)
    for check in result.checks:
        if check.verdict == "below the best":
            best = f"{_TITLES[check.measure]}: this channel reached {check.best:.4f}"
            console.print(f"note: {best} on the same watches", soft_wrap=True, markup=False)
    if now:
        chance = f"{result.false_refusals:.1%}"
        console.print(f"an equal release would be refused in at most {chance} of cases")
    blurred = [
        f"{_TITLES[check.measure]} {check.tells / check.now:.1%} ({check.margin / check.now:.1%})"
        for check in result.checks
        if check.blurred and check.now
    ]
    if blurred:
        told = f"with {result.viewers:,} viewers the smallest loss that can be told"
        note = f"note: {told} is well above the margin, in brackets: {', '.join(blurred)}"
        console.print(note, soft_wrap=True, markup=False)
    if result.reason:
        console.print(f"note: {result.reason}", soft_wrap=True, markup=False)


def _row(check: Check) -> tuple[str | Text, ...]:
    scale, digits = (1e3, 2) if check.measure == "inference_p50" else (1.0, 4)
    style = "bold red" if check.refused else "green" if check.verdict == "better" else ""

    def number(value: float, sign: str = "") -> str:
        return f"{value * scale:{sign}.{digits}f}"

    sign = 1 if check.measure.endswith(_LESS_IS_BETTER) else -1
    return (
        _TITLES[check.measure],
        number(check.now),
        number(check.candidate),
        number(check.change, "+"),
        number(sign * check.margin, "+"),
        number(sign * check.tells, "+"),
        Text(check.verdict, style=style),
    )

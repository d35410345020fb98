"""The gate's checks as a table: measure, now, new, change, margin, verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from clients.cli.tables import print_table, table_of

if TYPE_CHECKING:
    from training.release.gate import Check, GateResult

_TITLES = {
    "ndcg_10": "NDCG@10",
    "recall_100": "Recall@100",
    "coverage_10": "Coverage@10",
    "watch_log_loss": "watch log loss",
    "watch_miscalibration": "watches, off by",
    "like_log_loss": "like log loss",
    "like_miscalibration": "likes, off by",
    "inference_p50": "inference p50, ms",
}
_MORE_IS_BETTER = ("ndcg_10", "recall_100", "coverage_10")
_STYLES = {"better": "green", "within margin": "yellow", "inconclusive": "yellow"}


def print_gate(result: GateResult, now: str | None, candidate: str) -> None:
    """Print the comparison, or why there is none."""
    console = Console(highlight=False)
    if not result.checks:
        why = "nothing to compare with" if result.passed else "not comparable"
        console.print(f"gate: {why}: {result.reason}", soft_wrap=True, markup=False)
        return
    compared = f"{candidate} against {now}: {result.viewers:,} viewers' held-out watches"
    console.print(compared, soft_wrap=True, markup=False)
    numbers = ("now", "new", "change", "95% sure", "margin")
    table = table_of("measure", *numbers, "verdict", numbers=numbers, tight=True)
    for check in result.checks:
        table.add_row(*_row(check))
    print_table(table, console)
    for check in result.checks:
        if check.verdict == "below the best":
            best = f"{_TITLES[check.measure]}: this channel reached {check.best:.4f}"
            console.print(f"note: {best} on the same watches", soft_wrap=True, markup=False)
    if result.reason:
        console.print(f"note: {result.reason}", soft_wrap=True, markup=False)


def _row(check: Check) -> tuple[str | Text, ...]:
    scale, digits = (1e3, 2) if check.measure == "inference_p50" else (1.0, 4)

    def number(value: float, sign: str = "") -> str:
        return f"{value * scale:{sign}.{digits}f}"

    margin = -check.margin if check.measure in _MORE_IS_BETTER else check.margin
    return (
        _TITLES[check.measure],
        number(check.now),
        number(check.candidate),
        number(check.change, "+"),
        f"{number(check.low, '+')}…{number(check.high, '+')}",
        number(margin, "+"),
        Text(check.verdict, style="bold red" if check.refused else _STYLES.get(check.verdict, "")),
    )

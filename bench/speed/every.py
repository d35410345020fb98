"""All measurements of speed, one after the other; chain and tail on one stack.

vireo bench all
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.console import Console

from bench.speed.asked import asked
from bench.speed.chain import ChainPlan, chain_rows
from bench.speed.rank import RankPlan, measure_rank
from bench.speed.row import Row
from bench.speed.stand import stand
from bench.speed.tail import TailPlan, tail_rows
from server.home import Home
from training.features.watches import load_watches


@dataclass(frozen=True)
class EveryPlan:
    """How much to do of each."""

    chain: ChainPlan = field(default_factory=ChainPlan)
    tail: TailPlan = field(default_factory=TailPlan)
    rank: RankPlan = field(default_factory=RankPlan)

    @staticmethod
    def of(rounds: int) -> EveryPlan:
        """Everything as by default, so many times."""
        return EveryPlan(ChainPlan(rounds=rounds), TailPlan(rounds=rounds), RankPlan(rounds=rounds))


def measure_all(home: Home, dataset: str, plan: EveryPlan, console: Console) -> Iterator[Row]:
    """The rows of each measurement as it ends.

    Raises:
        VireoError: nothing was trained, something does not start, or an answer is wrong.
    """
    viewers = load_watches(home, dataset)["viewer_id"].drop_duplicates().head(plan.chain.viewers)
    with stand(home, dataset, "chain") as running:
        questions = asked(running.release, running.features, viewers.tolist())
        yield from asyncio.run(chain_rows(running, questions, plan.chain, console))
        yield from asyncio.run(tail_rows(running, questions, plan.tail, console))
    yield from measure_rank(home, dataset, plan.rank, console)

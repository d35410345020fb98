"""Which files run beside which, with pytest-xdist."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

_COPIED_HOME = "tests/acceptance/test_serving_without_training.py"
"""It serves a copy of the demo's home, and takes minutes to install."""
_OWN_HOMES = ("tests/acceptance/test_pages.py", "tests/acceptance/test_secured.py")
"""The one serves a copy too, the other a small home."""
_ONE_HOME = "tests/acceptance/"
"""Its other files share the demo's home, on which only one stack runs at a time."""
STACKS = (
    "tests/ops/stack/",
    "tests/clients/python/test_wheel.py",
    "tests/bench/",
    _COPIED_HOME,
    _ONE_HOME,
)
"""Where tests run whole stacks: what takes long in one process at both ends of the queue, so that
what is short fills the end of the run. Those of the demo's home come last: it trains meanwhile."""
_ONE_STACK = (
    "tests/clients/python/test_wheel.py",
    "tests/ops/stack/test_doctor.py",
    "tests/ops/stack/test_listeners.py",
    "tests/ops/stack/test_observe.py",
    "tests/ops/stack/test_stack.py",
)
"""Files that use the fixture `tiny_stack`, which is started once for them."""


def runs_stacks(nodeid: str) -> bool:
    """Return whether a test is of a file that runs whole stacks."""
    return nodeid.startswith(STACKS)


def turn(nodeid: str) -> int:
    """Return the rank of a test: stacks come first, in the order of STACKS."""
    ranks = (rank for rank, place in enumerate(STACKS) if nodeid.startswith(place))
    return next(ranks, len(STACKS))


class StacksBesideOthers(LoadFileScheduling):
    """Gives the first worker files from the front of the queue, and others from its end.

    Tests of stacks wait half of their time, and two stacks that start at once want four cores: so
    one runs beside the tests that run none, for as long as there are some.
    """

    def _split_scope(self, nodeid: str) -> str:
        """Return what a test must share a worker with: its file, or several."""
        if nodeid.startswith(_ONE_STACK):
            return "tiny_stack"
        shares = nodeid.startswith(_ONE_HOME) and not nodeid.startswith((_COPIED_HOME, *_OWN_HOMES))
        return _ONE_HOME if shares else super()._split_scope(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        if node is not self.nodes[0]:
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)

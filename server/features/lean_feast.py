"""Makes the import of Feast light, for processes that only read or write the online store."""

from __future__ import annotations

import sys
from typing import Any


def prepare_lean_feast() -> None:
    """Leave out what Feast imports or does at its import and servers don't need.

    Call it before Feast is imported, in a process of its own.
    """
    # If torch is installed, Feast imports it: a second and 180 MB. None in its place makes that
    # import fail, which Feast expects.
    sys.modules["torch"] = None  # type: ignore[assignment]
    # Feast has typeguard check the arguments of its classes, and the decorator compiles each of
    # them again: three quarters of the processor time of the import.
    import typeguard

    typeguard.typechecked = _unchanged


def _unchanged(target: Any = None, **_: Any) -> Any:
    """Stand in for `typeguard.typechecked`, with and without arguments."""
    return (lambda decorated: decorated) if target is None else target

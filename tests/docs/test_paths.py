"""Files and folders that the guides name are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
GUIDES = [
    CHECKOUT / "CONTRIBUTING.md",
    CHECKOUT / "docs" / "architecture.md",
    *(CHECKOUT / "docs" / "decisions").glob("*.md"),
]
FOLDERS = "bench|clients|deploy|docs|envoy|protos|server|tests|training"
PATH = re.compile(rf"`((?:{FOLDERS})/[\w./-]*)`")


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_paths_in_guides_exist(guide: Path) -> None:
    for path in PATH.findall(guide.read_text()):
        assert (CHECKOUT / path).exists(), path

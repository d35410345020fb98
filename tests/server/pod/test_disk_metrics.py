import math
import shutil
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from vireo.server.pod.disk_metrics import export_disk


def shown(name: str, folder: str) -> float:
    value = REGISTRY.get_sample_value(f"vireo_disk_{name}_bytes", {"folder": folder})
    assert value is not None
    return value


def test_the_disk_of_a_folder_is_shown_also_before_the_folder_is_made(tmp_path: Path) -> None:
    export_disk("made-later", tmp_path / "some" / "cache")
    usage = shutil.disk_usage(tmp_path)
    assert shown("size", "made-later") == usage.total
    assert shown("free", "made-later") == pytest.approx(usage.free, rel=0.2)


def test_a_folder_that_cannot_be_asked_is_not_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: Path) -> None:
        raise OSError(116, "Stale file handle")

    export_disk("away", tmp_path)
    monkeypatch.setattr("shutil.disk_usage", away)
    assert math.isnan(shown("free", "away"))
    assert math.isnan(shown("size", "away"))

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
from rich.console import Console

from bench.capacity.published import CHECKOUT, SPEED
from bench.load import PAGE
from bench.rows import Figures, Row, print_rows
from bench.speed.all import measure_all
from bench.speed.filtered import SHARES
from bench.speed.h2load import Prepared, Target, frame
from bench.speed.models import measure_search
from bench.speed.plan import SpeedPlan
from bench.speed.profile import measure_profile
from bench.speed.report import write_profiles, write_report
from bench.speed.stand import SETTINGS
from tests.builders.tiny_home import DATASET, build_tiny_home
from vireo.server.errors import VireoError
from vireo.server.releases import layout
from vireo.server.releases.manifest import Manifest
from vireo.training.release.tables import build_index

needs_h2load = pytest.mark.skipif(
    shutil.which("h2load") is None, reason="h2load is missing: make h2load"
)
PTRACE = Path("/proc/sys/kernel/yama/ptrace_scope")
needs_ptrace = pytest.mark.skipif(
    os.geteuid() != 0 and PTRACE.exists() and PTRACE.read_text().strip() != "0",
    reason="py-spy may not read other processes here",
)
SMALL = SpeedPlan(rounds=1, viewers=4, requests=64, alone=16, sample=4, idle=1.0, small=DATASET)


@pytest.mark.parametrize(
    ("bound", "at_least", "holds"),
    [
        (None, False, None),
        (2.0, False, True),
        (1.9, False, False),
        (2.1, True, False),
        (2, True, True),
    ],
)
def test_a_row_holds_up_to_its_bound(
    bound: float | None, at_least: bool, holds: bool | None
) -> None:
    row = Row.over_rounds("ratio", [1.0, 2.0, 5.0], bound, at_least=at_least)
    assert row.document() == {
        "measure": "ratio",
        "figure": 2.0,
        "spread": (1.0, 5.0),
        "bound": bound,
        "at_least": at_least,
        "section": "",
        "holds": holds,
    }


def test_a_page_has_each_row_with_its_section(tmp_path: Path) -> None:
    rows = [
        Row("CPU a request, the chain over floor", 1.5, (1.4, 1.6), 1.75, section="chain"),
        Row("CPU a request, floor, ms", 1.2, section="chain"),
        Row("CPU a request, the chain: gateway, ms", 0.7, section="chain"),
        Row.over_rounds("requests a second, MLServer", [90.0, 110.0]),
        Row("memory of a ranking pod, MB", 612.4, bound=600.0, section="pods"),
        Row.over_rounds("share of wrong answers", [0.0, 0.0], 0.0),
    ]
    write_report(rows, DATASET, 0.7, tmp_path)
    page = (tmp_path / "speed.md").read_text()
    assert "0.70: not a quiet machine" in page
    assert page.count("\n## ") == 4
    assert "2 of 3" in page
    assert "| memory of a ranking pod, MB | 612 |  |  | ≤ 600.0 | **no** |" in page
    for row in rows:
        assert row.measure in page


def test_the_first_round_only_warms_up() -> None:
    figures = Figures(Console(quiet=True))
    for number in figures.rounds(3):
        figures.add("seconds", [9.0, 1.0, 3.0, 2.0][number], 2.5)
    assert figures.rows() == [Row("seconds", 2.0, (1.0, 3.0), 2.5)]


def test_an_index_is_held_against_exact_search(tmp_path: Path) -> None:
    home = build_tiny_home(tmp_path)
    folder = home.staged_release(DATASET)
    vectors = np.load(folder / layout.VIDEO_VECTORS)
    index, described = build_index(
        vectors, np.empty((0, vectors.shape[1]), np.float32), exact_limit=1
    )
    faiss.write_index(index, str(folder / layout.VIDEO_INDEX))
    manifest = Manifest.read(folder).model_copy(update={"index": described})
    manifest.write(folder)
    rows = measure_search(home, DATASET, SMALL, Console(quiet=True))
    recall, over_exact, *_ = rows
    assert recall.figure == pytest.approx(1.0, abs=0.1)
    assert over_exact.figure > 0
    filtered = [row for row in rows if "of the videos" in row.measure]
    assert len(filtered) == 3 * 2 * len(SHARES), "recall, cost and first use of each kind"
    for row in filtered:
        if row.measure.startswith("recall"):
            assert row.figure == 1.0, "few videos are searched exactly"
        else:
            assert row.figure > 0


def test_rows_are_whole_on_a_narrow_terminal_and_measures_go_on_in_the_next_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    document = json.loads((CHECKOUT / SPEED).read_text())
    rows = [
        Row.over_rounds(each["measure"], [each["figure"]], each.get("bound"))
        for each in document["rows"]
    ]
    print_rows(rows)
    text = capsys.readouterr().out
    assert "…" not in text
    for row in rows:
        assert f" {row.figure:.3f} " in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_what_is_measured_is_what_viewers_get_and_what_the_page_says() -> None:
    assert "VIREO_CANDIDATES" not in SETTINGS
    page = " ".join((CHECKOUT / "bench/README.md").read_text().split())
    assert f"a page of {PAGE}:" in page


@needs_h2load
async def test_a_server_that_is_not_there_is_reported(tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(frame(b""))
    with pytest.raises(VireoError, match="h2load failed"):
        await Target("it", "http://127.0.0.1:1/x", [Prepared(body, 5)], tmp_path).load(0, 1, 1)


@needs_h2load
@pytest.mark.integration
def test_every_answer_of_a_small_run_is_right(tmp_path: Path) -> None:
    """Answers are held against the same release's in process: a wrong one raises."""
    home = build_tiny_home(tmp_path)
    found = measure_all(home, DATASET, DATASET, SMALL, Console(quiet=True))
    rows = list(found)
    assert sum(row.bound is not None for row in rows) == 4 + 2 + 1 + 4 + 1
    # Nothing is said of a search that is exact.
    sections = {"chain", "tail", "idle", "tower", "pods", "catalogue"}
    assert {row.section for row in rows} == sections
    wrong = [row for row in rows if row.measure.startswith("share of wrong")]
    assert [row.figure for row in wrong] == [0.0]
    idle = [row for row in rows if row.section == "idle"]
    assert all(row.figure >= 0 for row in idle)
    assert all(row.figure > 0 for row in rows if row not in (*wrong, *idle))


@needs_h2load
@needs_ptrace
@pytest.mark.integration
def test_each_service_is_sampled_under_load(tmp_path: Path) -> None:
    home = build_tiny_home(tmp_path / "home")
    plan = SpeedPlan(viewers=1, requests=64)
    profiles = measure_profile(home, DATASET, plan, 1, tmp_path, Console(quiet=True))
    assert [each.service for each in profiles] == ["gateway", "candidate", "ranking"]
    for profile in profiles:
        assert profile.milliseconds > 0
    write_profiles(profiles, tmp_path)
    page = (tmp_path / "profile.md").read_text()
    for profile in profiles:
        graph = (tmp_path / f"{profile.service}.svg").read_text()
        assert "<svg" in graph
        assert "server/" in graph
        assert f"({profile.service}.svg)" in page


def test_pipelines_import_nothing_that_the_environments_of_other_servers_lack() -> None:
    missing = ["vireo.v1", "pydantic_settings", "feast", "torch"]
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({missing}));"
        "import vireo.server.recommend.retrieval.pipeline, vireo.server.recommend.ranking.pipeline"
    )
    subprocess.run([sys.executable, "-c", program], check=True)

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
from rich.console import Console

from bench.load import PAGE
from bench.rows import Figures, Row, show
from bench.speed.h2load import Prepared, Target
from bench.speed.measures import MEASURES, measure
from bench.speed.search import SHARES, measure_search
from bench.speed.stand import SETTINGS, SpeedPlan
from tests.builders.http2 import grpc_frame
from tests.builders.tiny_home import DATASET, build_tiny_home
from vireo.server.errors import VireoError
from vireo.server.releases import layout
from vireo.server.releases.manifest import Manifest
from vireo.training.release.tables import build_index

CHECKOUT = Path(__file__).parents[2]
SMALL = SpeedPlan(rounds=1, viewers=4, requests=64, alone=16, sample=4)
needs_h2load = pytest.mark.skipif(
    shutil.which("h2load") is None, reason="h2load is missing: make h2load"
)


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
    row = Row("ratio", 2.0, (1.0, 5.0), bound, at_least)
    assert row.holds == row.document()["holds"] == holds


def test_the_first_round_only_warms_up() -> None:
    figures = Figures(Console(quiet=True))
    for number in figures.rounds(3):
        figures.add("seconds", [9.0, 1.0, 3.0, 2.0][number], 2.5)
    assert figures.rows() == [Row("seconds", 2.0, (1.0, 3.0), 2.5)]


def test_rows_are_whole_on_a_narrow_terminal_and_measures_go_on_in_the_next_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = (CHECKOUT / "bench/report/memory.jsonl").read_text().splitlines()
    rows = [
        Row(each["measure"], each["figure"], bound=each["bound"]) for each in map(json.loads, lines)
    ]
    show(rows, as_json=False)
    text = capsys.readouterr().out
    assert "…" not in text
    for row in rows:
        assert f" {row.figure:.3f} " in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_what_is_measured_is_what_viewers_get_and_what_the_page_says() -> None:
    assert "VIREO_CANDIDATES" not in SETTINGS
    page = " ".join((CHECKOUT / "bench/README.md").read_text().split())
    assert f"a page of {PAGE}, as viewers get them" in page


def test_an_index_is_held_against_exact_search(tmp_path: Path) -> None:
    home = build_tiny_home(tmp_path)
    assert measure_search(home, DATASET, SMALL, Console(quiet=True)) == [], "it is exact"
    folder = home.staged_release(DATASET)
    vectors = np.load(folder / layout.VIDEO_VECTORS)
    index, described = build_index(
        vectors, np.empty((0, vectors.shape[1]), np.float32), exact_limit=1
    )
    faiss.write_index(index, str(folder / layout.VIDEO_INDEX))
    Manifest.read(folder).model_copy(update={"index": described}).write(folder)
    rows = measure_search(home, DATASET, SMALL, Console(quiet=True))
    recalls = [row.figure for row in rows if row.measure.startswith("recall")]
    costs = [row.figure for row in rows if row.measure.startswith("retrieval over")]
    assert len(recalls) == len(costs) == 1 + 2 * len(SHARES)
    assert recalls[0] == pytest.approx(1.0, abs=0.1)
    assert recalls[1:] == [1.0] * 2 * len(SHARES), "few videos are searched exactly"
    assert min(costs) > 0


@needs_h2load
async def test_a_server_that_is_not_there_is_reported(tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(grpc_frame(b""))
    with pytest.raises(VireoError, match="h2load failed"):
        await Target("it", "http://127.0.0.1:1/x", [Prepared(body, 5)], tmp_path).load(0, 1, 1)


@needs_h2load
@pytest.mark.integration
def test_every_answer_of_a_small_run_is_right(tmp_path: Path) -> None:
    """Answers are held against the same release's in process: a wrong one raises."""
    home = build_tiny_home(tmp_path)
    asked = [each for each in MEASURES if each != "idle"]
    rows = list(measure(home, DATASET, SMALL, Console(quiet=True), asked))
    assert {row.section for row in rows} == {*asked}
    assert sum(row.bound is not None for row in rows) == 8 + 2 + 6
    [wrong] = [row for row in rows if row.measure.startswith("share of wrong")]
    assert wrong.figure == 0
    assert [row.measure for row in rows if row.figure <= 0] == [wrong.measure]


def test_pipelines_import_nothing_that_the_environments_of_other_servers_lack() -> None:
    missing = ["vireo.v1", "pydantic_settings", "feast", "torch"]
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({missing}));"
        "import vireo.server.recommend.retrieval.pipeline, vireo.server.recommend.ranking.pipeline"
    )
    subprocess.run([sys.executable, "-c", program], check=True)

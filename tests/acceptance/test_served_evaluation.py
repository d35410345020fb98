"""What comes out of Envoy for every viewer, held against what the viewers watched next."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pandas as pd

from server.home import Home
from server.releases.manifest import Manifest
from tests.acceptance.conftest import BIN


def test_the_served_chain_beats_ease_and_popularity(demo_home: Home, tmp_path: Path) -> None:
    assert Manifest.read(demo_home.staged_release("ml-100k")).holdout == "none"
    measuring = demo_home.measuring
    lists = tmp_path / "lists.jsonl"
    command = ["evaluate", "served", "--data", "ml-100k", "--lists", str(lists), "--json"]
    patience = ["--deadline", "9"]  # of a busy machine
    done = subprocess.run(
        [BIN / "vireo", *command, *patience],
        env={**os.environ, "VIREO_HOME": str(demo_home.root)},
        capture_output=True,
        text=True,
        timeout=840,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    viewers = result["answers"].pop("viewers")
    assert set(result["answers"].values()) == {0}, "no answer is less than full"
    metrics = result["metrics"]
    served, baselines = metrics["served"], (metrics["ease"], metrics["popularity"])
    for baseline in baselines:
        assert served["ndcg_10"] > baseline["ndcg_10"], metrics

    rows = [json.loads(line) for line in lists.read_text().splitlines()]
    watches = pd.read_parquet(measuring.features("ml-100k") / "watches.parquet")
    held_out = watches[watches["part"] == "test"].set_index("viewer_id")["video_id"]
    watched = watches[watches["part"] != "test"].groupby("viewer_id")["video_id"].agg(set)
    assert sorted(row["user_id"] for row in rows) == sorted(held_out.index)
    assert viewers == len(rows)
    hits = 0
    for row in rows:
        assert len(row["items"]) == len(set(row["items"])) == 100
        assert not set(row["items"]) & watched[row["user_id"]]
        hits += held_out[row["user_id"]] in row["items"][:10]
    # The command's own figure, counted again from its lists.
    assert abs(hits / len(rows) - served["hr_10"]) < 1e-9

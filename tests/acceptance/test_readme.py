"""Every command in the README does what the README says."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pandas as pd
import pytest

from tests.acceptance.conftest import BIN, CHECKOUT
from tests.builders.secured_stack import ONE_POD_EACH
from tests.builders.stack import Stack, running_stack
from tests.builders.waiting import until
from vireo.ops.cli.up import show_endpoints
from vireo.server.home import Home
from vireo.training.features.watches import load_watches

README = (CHECKOUT / "README.md").read_text()
VIEWERS = 30
VIDEOS = 100
FUTURE_ROW = 1 + VIEWERS * 21 + 1
"""Number of the row that nobody can have watched yet; the header is row 1."""


def blocks(language: str, heading: str) -> list[str]:
    """The code blocks in a language below a heading."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def run(script: str, environment: dict[str, str], folder: Path = CHECKOUT, code: int = 0) -> str:
    """Run shell lines as a reader would paste them; return what they print, or say if they fail."""
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=folder,
        env={**os.environ, **environment, "PATH": f"{BIN}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=840,
    )
    assert done.returncode == code, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stderr if code else done.stdout


def at(stack: Stack, script: str) -> str:
    """The script for this stack's port, without the line that is about this checkout's paths.

    A busy machine may take longer than a reader's.
    """
    return (
        script.replace("127.0.0.1:8080", stack.edge)
        .replace(". .venv/bin/activate", "true")
        .replace("timeout=1.0", "timeout=20")
    )


def test_every_block_is_one_that_these_tests_or_make_run() -> None:
    handled = {"Start", "First requests", "Your own data", "How good is it"}
    with_code = {
        section.split("\n", 1)[0]
        for section in README.split("\n## ")[1:]
        if re.search(r"```(sh|python)", section)
    }
    assert with_code == handled
    for line in blocks("sh", "Start")[0].splitlines():
        target = line.split()[1]
        assert re.search(rf"^{target}:", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
        assert f"make {target}" in (CHECKOUT / ".ci" / "run").read_text(), "CI runs it"


def test_steps_that_need_the_demo_precede_the_import_of_own_data() -> None:
    headings = re.findall(r"^## (.*)$", README, re.MULTILINE)
    assert headings.index("First requests") < headings.index("Your own data")
    assert headings.index("How good is it") < headings.index("Your own data")


def test_the_first_requests_work_and_give_one_and_the_same_slate(stack: Stack) -> None:
    table, services, by_grpcurl, by_curl = (
        run(at(stack, script), stack.environment) for script in blocks("sh", "First requests")
    )
    assert "vireo.v1.RecommendationService" in services.split()
    expected = [item["videoId"] for item in json.loads(by_grpcurl)["items"]]
    videos = pd.read_parquet(stack.home.data("ml-100k") / "videos.parquet")
    titles = videos.set_index("video_id")["title"]
    for video_id in expected:
        assert titles[video_id][:20] in table, table
    assert len(expected) == 10
    assert [item["videoId"] for item in json.loads(by_curl)["items"]] == expected
    (script,) = blocks("python", "First requests")
    done = subprocess.run(
        [BIN / "python", "-c", at(stack, script)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()] == expected
    cli = run("vireo recommend 1 --json", stack.environment)
    assert [item["videoId"] for item in json.loads(cli)["items"]] == expected


def test_the_requests_that_a_ready_stack_prints_work_as_they_are(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    show_endpoints(stack.state())
    pasted = capsys.readouterr().out.split("\n\n")[1].replace("timeout=1)", "timeout=20)")
    answers = subprocess.run(
        ["bash", "-euc", pasted],
        cwd=CHECKOUT,
        env={"PATH": "/usr/bin:/bin", "VIREO_HOME": str(stack.home.root)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert answers.returncode == 0, answers.stderr
    first = json.loads(run("vireo recommend 1 --json", stack.environment))["items"][0]
    assert answers.stdout.count(f'"videoId":"{first["videoId"]}"') == 1, "curl"
    assert answers.stdout.count(f'"videoId": "{first["videoId"]}"') == 1, "grpcurl"
    assert answers.stdout.count(f'video_id: "{first["videoId"]}"') == 1, "Python"
    assert answers.stdout.count("two tower") >= 1, "vireo"


def test_the_evaluation_commands_measure_the_served_chain(stack: Stack, tmp_path: Path) -> None:
    (script,) = blocks("sh", "How good is it")
    output = run(at(stack, script), stack.environment, tmp_path)
    figures = {row: figures_of(output, row) for row in ("popularity", "ease", "chain", "served")}
    hit_rate, ndcg = figures["served"][0]
    assert ndcg > max(ndcg for row in ("popularity", "ease") for _, ndcg in figures[row])

    lists = [json.loads(line) for line in (tmp_path / "lists.jsonl").read_text().splitlines()]
    watches = load_watches(stack.home.measuring, "ml-100k")
    held_out = watches[watches["part"] == "test"].set_index("viewer_id")["video_id"]
    watched = watches[watches["part"] != "test"].groupby("viewer_id")["video_id"].agg(set)
    assert sorted(row["user_id"] for row in lists) == sorted(held_out.index)
    hits = 0
    for row in lists:
        assert len(row["items"]) == len(set(row["items"])) == 100
        assert not set(row["items"]) & watched[row["user_id"]]
        hits += held_out[row["user_id"]] in row["items"][:10]
    # The command's own figure, counted again from its lists, but without what was published after
    # the watch, which a few lists have.
    assert hits / len(lists) - 5e-4 <= hit_rate <= hits / len(lists) + 5e-3


def figures_of(output: str, system: str) -> list[tuple[float, float]]:
    """HR@10 and NDCG@10 of a system, in each table that has it."""
    rows = re.findall(rf"^{system} +([\d.]+) +([\d.]+)", output, re.MULTILINE)
    assert rows, f"no {system} in:\n{output}"
    return [(float(hit_rate), float(ndcg)) for hit_rate, ndcg in rows]


def write_viewing_csv(folder: Path) -> None:
    """Write `watched.csv` and `videos.csv`: two tastes, each a half of the videos.

    Viewer ids are "0", "1", …; video ids "000", "001", …, "0099", so that an id read as a
    number would come back changed. Times come with and without zones, some rows twice, and the
    last row is of the year 2100.
    """
    draw = random.Random(7)
    with (folder / "videos.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["video_id", "title"])
        rows.writerows((f"00{video}", f"Video {video}") for video in range(VIDEOS))
    with (folder / "watched.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["viewer_id", "video_id", "timestamp", "watched_fraction"])
        for viewer in range(VIEWERS):
            taste = [video for video in range(VIDEOS) if video % 2 == viewer % 2]
            for step, video in enumerate(draw.sample(taste, 20)):
                time = datetime.fromtimestamp(1_700_000_000 + viewer * 100_000 + step * 600, UTC)
                row = [viewer, f"00{video}", _written(time, step), round(draw.random(), 2)]
                rows.writerow(row)
                if step == 0:
                    rows.writerow(row)
        rows.writerow([0, "000", "2100-01-01T00:00:00Z", 1.0])


def watched_by(viewer: str, folder: Path) -> set[str]:
    """Return the videos that a viewer has watched by `watched.csv`, those to come left out."""
    with (folder / "watched.csv").open(newline="") as file:
        return {
            row["video_id"]
            for row in csv.DictReader(file)
            if row["viewer_id"] == viewer and not row["timestamp"].startswith("2100")
        }


def _written(time: datetime, step: int) -> str:
    """Return a time in one of three forms, which all mean the same moment."""
    if step % 3 == 0:
        return time.astimezone(timezone(timedelta(hours=2))).isoformat()
    return f"{time:%Y-%m-%dT%H:%M:%S}" + ("Z" if step % 3 == 1 else "")


async def test_own_data_replaces_the_demo_while_it_runs(demo_home: Home, tmp_path: Path) -> None:
    """In the README's order: the demo is still up in the first terminal."""
    write_viewing_csv(tmp_path)
    (script,) = blocks("sh", "Your own data")
    # Other files than those of the sample site: ids and times that are easily misread.
    own = script.replace("examples/interactions.csv", "watched.csv").replace("examples/", "")
    import_data, *before_up, up = own.strip().splitlines()
    assert up == "vireo up"
    watched = watched_by("0", tmp_path)
    home = Home(tmp_path / "home")
    for part in (Home.data, Home.features, Home.run):
        shutil.copytree(part(demo_home, "ml-100k"), part(home, "ml-100k"))

    publish = "vireo release publish --data ml-100k"
    with running_stack(home.root, prepare=publish, settings=ONE_POD_EACH) as demo:
        refusal = run(import_data, demo.environment, tmp_path, code=1)
        assert f"watched.csv, row {FUTURE_ROW}, column timestamp" in refusal
        assert "--skip-bad-rows" in refusal
        # The default profile, with which the demo trains, takes 1,500 steps for 600 watches too.
        quick = [line.replace("vireo train", "vireo train --profile quick") for line in before_up]
        commands = [f"{import_data} --skip-bad-rows", *quick]
        output = run("\n".join(commands), demo.environment, tmp_path)
        assert "was made from example data, ml-100k" in output
        assert "to take it back: vireo release rollback" in output
        refusal = run(up, demo.environment, code=1)
        assert f"its edge is {demo.edge}" in refusal
        assert "serves what channel production names within seconds" in refusal
        await until(lambda: own_slate(demo, watched))


def own_slate(stack: Stack, watched: set[str]) -> bool:
    """Whether the slate is of the user's videos: all of them, in full, none of those watched."""
    slate = json.loads(run("vireo recommend 0 --json", stack.environment))
    assert "degradations" not in slate
    ids = {item["videoId"] for item in slate["items"]}
    assert len(ids) == 10
    own = {f"00{n}" for n in range(VIDEOS)}
    assert ids <= own or not ids & own, "videos of two releases in one slate"
    assert not ids & watched
    return ids <= own


def test_links_of_the_readme_exist() -> None:
    for link in re.findall(r"\]\(([^)h][^)]*)\)", README):
        assert (CHECKOUT / link.partition("#")[0]).exists(), link

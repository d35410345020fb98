from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from tests.builders.datasets import random_interactions, write_small_dataset
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.training.run import only_training
from vireo.training.train import train_all

HOLDER = """
import pathlib, sys
from vireo.server.home import Home
from vireo.training.run import only_training
with only_training(Home(pathlib.Path(sys.argv[1])), "small"):
    print("holds", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that trains on data set "small" until its input ends."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        yield process
        process.kill()


def test_a_second_training_of_a_data_set_is_refused_with_the_process_that_trains(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    home = Home(tmp_path)
    write_small_dataset(home, "small", random_interactions())
    with pytest.raises(VireoError, match=f"process {holder.pid} is training on small"):
        train_all(home, "small", "quick", fresh=True, console=Console(file=io.StringIO()))
    with only_training(home, "other"):
        pass


def test_the_death_of_a_training_lets_the_next_begin(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    holder.kill()
    holder.wait()
    with only_training(Home(tmp_path), "small"):
        pass

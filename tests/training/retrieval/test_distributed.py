"""Two processes learn together what one learns alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

SCRIPT = """
import json, sys
from dataclasses import replace
from pathlib import Path

import torch

from tests.builders.watches import videos_frame, viewers_frame, watches_frame
from training.retrieval.config import RetrievalConfig
from training.retrieval.data import RetrievalData
from training.retrieval.distributed import Processes
from training.retrieval.train import train_retrieval
from training.retrieval.trainer import RetrievalTrainer

folder, limit = Path(sys.argv[1]), int(sys.argv[2])
RetrievalTrainer.__init__.__globals__["bfloat16_is_fast"] = lambda: False
ids = [f"v{number}" for number in range(30)]
walks = {
    f"w{start}": [ids[(start + step) % 30] for step in range(4 + start % 9)] for start in range(61)
}
data = RetrievalData.build(watches_frame(walks), videos_frame(ids), viewers_frame({}))
config = RetrievalConfig(
    dimension=16, history_limit=8, dropout=0.0, id_dropout=0.0, attribute_dropout=0.0, epochs=3,
    batch_tokens=64, learning_rate=1e-2, warmup_steps=5, ema_decay=0.9, validate_every=1,
    full_softmax_limit=limit, negatives=20, threads=1,
)
processes = Processes.joined()
model = train_retrieval(data, config, folder, processes=processes)
trainer = RetrievalTrainer(data, config, processes)
for _ in range(7):
    trainer.train_step()
trainer.average.settle()
weights = [*trainer.model.parameters(), *trainer.average.model.parameters()]
torch.save([weight.detach() for weight in weights], folder / f"weights-{processes.rank}.pt")
processes.leave()
"""


def trained_by(processes: int, folder: Path, limit: int) -> tuple[list[dict[str, float]], str]:
    """The learning curve and what is printed, of a run in `folder`."""
    folder.mkdir()
    (folder / "run.py").write_text(SCRIPT)
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [sys.executable, *(launch if processes > 1 else []), "run.py", str(folder), str(limit)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = (folder / "retrieval_curve.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], done.stderr


@pytest.mark.parametrize("limit", [1000, 10], ids=["full softmax", "sampled, sparse rows"])
def test_two_processes_reach_the_losses_and_weights_of_one(tmp_path: Path, limit: int) -> None:
    alone, _ = trained_by(1, tmp_path / "one", limit)
    together, printed = trained_by(2, tmp_path / "two", limit)

    assert len(alone) == 3
    for one, two in zip(alone, together, strict=True):
        assert two["tokens"] == one["tokens"]
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)
        assert two["ndcg_10"] == pytest.approx(one["ndcg_10"], abs=0.02)
    single = torch.load(tmp_path / "one" / "weights-0.pt")
    first, second = (torch.load(tmp_path / "two" / f"weights-{rank}.pt") for rank in (0, 1))
    for one, ours, theirs in zip(single, first, second, strict=True):
        assert torch.equal(ours, theirs)
        assert torch.allclose(ours, one, atol=1e-3)
    assert printed.count("epoch 3/3") == 1, "only the first process prints"

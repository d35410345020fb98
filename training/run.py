"""The folder of a training run, and what of it is done already."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from server.candidate.release import CandidateRelease
from server.releases.manifest import Manifest, ReleaseError
from training.data.folder import replaced_folder


def fingerprint(*parts: object) -> str:
    """SHA-256 of values that JSON can hold, hexadecimal."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Run:
    """Where a run keeps what it makes."""

    folder: Path

    @property
    def checkpoints(self) -> Path:
        """Checkpoints, the ranking set and learning curves."""
        return self.folder / "checkpoints"

    @property
    def sequences(self) -> Path:
        """Each viewer's watches, as the towers learn from them."""
        return self.checkpoints / "sequences.parquet"

    @property
    def ranking_set(self) -> Path:
        """The ranker's training set."""
        return self.checkpoints / "ranking_set.npz"

    @property
    def report(self) -> Path:
        """Metrics and plots."""
        return self.folder / "report"

    @property
    def draft(self) -> Path:
        """The release while it is being made."""
        return self.folder / "draft"

    @property
    def release(self) -> Path:
        """The finished release."""
        return self.folder / "release"

    def forget(self) -> None:
        """Delete everything of the run."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def stage_copy(self, release: Path) -> None:
        """Put a copy of a finished release, from another run, in this run's place for one."""
        self.unmark_draft()
        with replaced_folder(self.release) as place:
            shutil.copytree(release, place, dirs_exist_ok=True)

    def drafted(self, inputs: str) -> CandidateRelease | None:
        """The draft, where its retrieval part was made of these inputs."""
        if not _marked(self.folder / "draft.txt", inputs):
            return None
        try:
            return CandidateRelease.load(self.draft)
        except ReleaseError:
            return None

    def unmark_draft(self) -> None:
        """Forgets whatever the draft was made of, before it changes."""
        (self.folder / "draft.txt").unlink(missing_ok=True)

    def mark_draft(self, inputs: str) -> None:
        """Remembers that the draft's retrieval part is done."""
        (self.folder / "draft.txt").write_text(inputs)

    def finished(self, inputs: str) -> Manifest | None:
        """The finished release, where it was made of these inputs."""
        try:
            manifest = Manifest.read(self.release)
        except ReleaseError:
            return None
        done = _marked(self.folder / "finished.txt", f"{manifest.release_id} {inputs}")
        return manifest if done else None

    def finished_inputs(self) -> str:
        """What the finished release was made of; empty where that isn't known."""
        path = self.folder / "finished.txt"
        return path.read_text().partition(" ")[2] if path.exists() else ""

    def mark_finished(self, inputs: str, manifest: Manifest) -> None:
        """Remembers what the finished release was made of."""
        (self.folder / "finished.txt").write_text(f"{manifest.release_id} {inputs}")


def _marked(path: Path, wanted: str) -> bool:
    return path.exists() and path.read_text() == wanted

"""The folder of a training run, and which of its steps are done."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vireo.server.errors import VireoError
from vireo.server.file_lock import LockTakenError, file_lock
from vireo.server.home import Home
from vireo.server.recommend.retrieval.release import CandidateRelease
from vireo.server.releases.manifest import Manifest, ReleaseError
from vireo.training.data.folder import replaced_folder


def fingerprint(*parts: object) -> str:
    """Return the SHA-256 of JSON-serializable values, hexadecimal."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def measuring_home(home: Home) -> Home:
    """Return the home of `home`'s measured fits; create it if missing.

    It shares the data sets but not the features: measuring needs what was known before the
    held-out watches, serving needs everything known now.
    """
    measuring = home.measuring
    measuring.root.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (measuring.root / "data").symlink_to(Path("..") / "data", target_is_directory=True)
    return measuring


@contextlib.contextmanager
def only_training(home: Home, dataset: str) -> Iterator[None]:
    """Keep other processes from training on a data set of this home.

    The kernel releases the lock when this process ends, however it does.

    Raises:
        VireoError: another process trains on it; the message says which.
    """
    path = home.run(dataset).parent / f".{dataset}.lock"
    try:
        with file_lock(path):
            yield
    except LockTakenError as error:
        raise VireoError(
            f"process {error.holder} is training on {dataset} in {home.root}; wait until it has "
            f"ended, or end it: kill {error.holder}"
        ) from error


@dataclass(frozen=True)
class Run:
    """Paths of a run's outputs."""

    folder: Path

    @property
    def checkpoints(self) -> Path:
        """Checkpoints, the ranking set and learning curves."""
        return self.folder / "checkpoints"

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
        """The release under construction."""
        return self.folder / "draft"

    @property
    def release(self) -> Path:
        """The finished release."""
        return self.folder / "release"

    def forget(self) -> None:
        """Delete the run."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def stage_copy(self, release: Path) -> None:
        """Copy the finished release of another run to this run's release folder."""
        self.unmark_draft()
        with replaced_folder(self.release) as place:
            shutil.copytree(release, place, dirs_exist_ok=True)

    def drafted(self, inputs: str) -> CandidateRelease | None:
        """Return the draft if its retrieval part was built from these inputs."""
        if not _marked(self.folder / "draft.txt", inputs):
            return None
        try:
            return CandidateRelease.load(self.draft)
        except ReleaseError:
            return None

    def unmark_draft(self) -> None:
        """Forget the draft's inputs, before the draft changes."""
        (self.folder / "draft.txt").unlink(missing_ok=True)

    def mark_draft(self, inputs: str) -> None:
        """Record that the draft's retrieval part is done."""
        (self.folder / "draft.txt").write_text(inputs)

    def finished(self, inputs: str) -> Manifest | None:
        """Return the finished release's manifest if it was built from these inputs."""
        try:
            manifest = Manifest.read(self.release)
        except ReleaseError:
            return None
        done = _marked(self.folder / "finished.txt", f"{manifest.release_id} {inputs}")
        return manifest if done else None

    def finished_inputs(self) -> str:
        """Return the inputs of the finished release; empty if unknown."""
        path = self.folder / "finished.txt"
        return path.read_text().partition(" ")[2] if path.exists() else ""

    def mark_finished(self, inputs: str, manifest: Manifest) -> None:
        """Record the inputs of the finished release."""
        (self.folder / "finished.txt").write_text(f"{manifest.release_id} {inputs}")


def _marked(path: Path, wanted: str) -> bool:
    return path.exists() and path.read_text() == wanted

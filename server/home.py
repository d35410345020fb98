"""A checkout's run-time state: everything is below one folder, `VIREO_HOME`."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vireo.server.errors import VireoError

DATASET_NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"
"""Pattern of data set names, here and in a release's manifest."""
_MAX_SHOWN = 128


def check_dataset_name(name: str) -> str:
    """Return `name`; raise VireoError if it can't name a data set."""
    if not re.fullmatch(DATASET_NAME, name):
        raise VireoError(
            f"{name[:_MAX_SHOWN]!r} can't name a data set: use up to 64 lower-case letters, "
            "digits, '-' and '_', beginning with a letter or digit"
        )
    return name


@dataclass(frozen=True)
class Home:
    """The folder that holds data sets, features, training runs, the local S3 and logs."""

    root: Path

    @staticmethod
    def current() -> Home:
        """Return the home that `VIREO_HOME` names.

        By default `.vireo` in the checkout that this code runs from, so that checkouts don't
        share it; in the working directory if this is an installed wheel.
        """
        checkout = Path(__file__).parents[2]
        base = checkout if (checkout / "pyproject.toml").exists() else Path.cwd()
        return Home(Path(os.environ.get("VIREO_HOME") or base / ".vireo").absolute())

    def _of(self, kind: str, dataset: str) -> Path:
        # Names come from releases, too: they must not lead elsewhere.
        return self.root / kind / check_dataset_name(dataset)

    def data(self, dataset: str) -> Path:
        """Return the folder of the imported data: interactions, videos and viewers as Parquet."""
        return self._of("data", dataset)

    def features(self, dataset: str) -> Path:
        """Return the folder of the Feast repository: Parquet, registry and online store."""
        return self._of("features", dataset)

    def run(self, dataset: str) -> Path:
        """Return the folder of the newest training run: checkpoints, report, staged release."""
        return self._of("runs", dataset)

    def staged_release(self, dataset: str) -> Path:
        """Return the folder of the release that training wrote and a publish uploads."""
        return self.run(dataset) / "release"

    def trained_release(self, dataset: str) -> Path:
        """Return the folder of the staged release; raise VireoError if there is none."""
        folder = self.staged_release(dataset)
        if not folder.exists():
            raise VireoError(
                f"{folder} is missing; make a release with: vireo train --data {dataset}"
            )
        return folder

    @property
    def measuring(self) -> Home:
        """The home of measured fits; see `vireo.training.run`."""
        return Home(self.root / "measuring")

    @property
    def cache(self) -> Path:
        """Releases fetched from S3, content-addressed."""
        return self.root / "cache"

    @property
    def s3(self) -> Path:
        """The embedded S3 server's data."""
        return self.root / "s3"

    @property
    def logs(self) -> Path:
        """Log files, one per process."""
        return self.root / "logs"

    @property
    def security(self) -> Path:
        """Certificates of a stack that is secured, and the key that signs tokens for it."""
        return self.root / "security"

    @property
    def stack(self) -> Path:
        """State of the running stack: process ids, ports, rendered configuration."""
        return self.root / "stack"


def keep_private(folder: Path) -> None:
    """Let only its owner into a folder.

    It stays as it is if somebody else owns it, as they do the root of a volume, or if whoever
    writes into it keeps others out, as in /tmp.
    """
    status = folder.stat()
    if status.st_uid == os.geteuid() and not status.st_mode & stat.S_ISVTX:
        folder.chmod(0o700)


def replace_private(path: Path, contents: bytes) -> None:
    """Replace a file by one that only its owner may read."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with open(fresh, "xb", opener=partial(os.open, mode=0o600)) as file:
        file.write(contents)
    fresh.replace(path)

"""The serving images, built unless they are there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from deploy.images import build
from tests.deploy.images.containers import Image, mounted_image

SBOMS = "sboms"


@pytest.fixture(scope="session")
def sboms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the images' SBOMs; the images exist."""
    if shutil.which("buildah") is None:
        pytest.skip("buildah is missing: apt-get install buildah mmdebstrap crun iproute2")
    folder = tmp_path_factory.mktemp(SBOMS)
    build.main([*build.SERVING, "--sboms", str(folder)])
    return folder


@pytest.fixture(scope="session")
def images(sboms: Path) -> Iterator[Mapping[str, Image]]:
    """Each serving image by its role."""
    with ExitStack() as stack:
        yield {
            role: stack.enter_context(mounted_image(build.image(role))) for role in build.SERVING
        }

"""What the environments of the servers to compare with lack, the pipelines don't import."""

from __future__ import annotations

import subprocess
import sys


def test_pipelines_import_neither_stubs_nor_feast_nor_torch() -> None:
    missing = ["vireo.v1", "pydantic_settings", "feast", "torch"]
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({missing}));"
        "import vireo.server.recommend.retrieval.pipeline, server.recommend.ranking.pipeline"
    )
    subprocess.run([sys.executable, "-c", program], check=True)

"""Rendering of a report's page."""

from __future__ import annotations

from pathlib import Path

import jinja2

from server.errors import VireoError
from server.releases.manifest import Manifest
from training.evaluation.page.sections import sections
from training.evaluation.report import METRICS, SERVED, read_json

INDEX = "index.html"


def render_page(folder: Path, manifest: Manifest) -> str:
    """Return the self-contained HTML page of the report in `folder`, of this release.

    Raises:
        VireoError: the folder has no report.
    """
    metrics = read_json(folder, METRICS)
    if not metrics:
        raise VireoError(
            f"{folder} has no {METRICS}; make it with: vireo evaluate --data {manifest.dataset}"
        )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.html.jinja").render(
        manifest=manifest,
        viewers=metrics["viewers"],
        videos=metrics["videos"],
        served=read_json(folder, SERVED),
        ranker=metrics.get("ranker", {}),
        sections=sections(folder, manifest.dataset),
    )


def write_page(folder: Path, manifest: Manifest, path: Path | None = None) -> Path:
    """Write the page to a file, INDEX in `folder` by default, and return its path.

    Raises:
        VireoError: there is no report, or the file can't be written.
    """
    path = path or folder / INDEX
    text = render_page(folder, manifest)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise VireoError(f"cannot write {path}: {error.strerror}; give another file") from error
    return path

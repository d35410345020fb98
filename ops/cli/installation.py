"""What is wrong with an installation, in a sentence, and the command that mends it."""

from __future__ import annotations

import traceback
from importlib.metadata import version
from pathlib import Path

from vireo.server.errors import VireoError

CHECKOUT = Path(__file__).parents[3]
"""The checkout, unless a wheel is installed: then a folder of packages."""

_EXTRAS = {
    "training": {
        "implicit",
        "jinja2",
        "onnx",
        "onnxscript",
        "pandas",
        "pyarrow",
        "scipy",
        "threadpoolctl",
        "torch",
    },
    "serving": {"onnxruntime", "faiss", "minio", "feast"},
    "control": {"envoy"},
    "security": {"cryptography", "jwt"},
}
"""The extra that installs a module."""


def check_stubs(checkout: Path = CHECKOUT) -> None:
    """Check that a checkout's stubs were made after its protos were last changed.

    Raises:
        VireoError: they are missing, or older than a proto.
    """
    protos = sorted((checkout / "protos").glob("*/**/*.proto"))
    if not protos:  # a wheel, which has the stubs that it was built with
        return
    made = checkout / "protos" / "gen" / "vireo" / "descriptors.binpb"
    if not made.exists():
        raise VireoError(f"the stubs of {checkout / 'protos'} are missing; {_mend(checkout)}")
    newest = max(protos, key=lambda path: path.stat().st_mtime)
    if newest.stat().st_mtime > made.stat().st_mtime:
        raise VireoError(
            f"the stubs are older than {newest.relative_to(checkout)}, which has changed since; "
            f"{_mend(checkout)}"
        )


def import_failure(error: Exception, checkout: Path = CHECKOUT) -> str | None:
    """Return what to tell the user of an error that an import ended in, None for any other.

    Stubs raise RuntimeError for an older grpcio, and protobuf's VersionError for an older protobuf.
    """
    frames = traceback.walk_tb(error.__traceback__)
    importing = any(frame.f_code.co_name == "<module>" for frame, _ in frames)
    if not importing and not isinstance(error, ImportError):
        return None
    missing = getattr(error, "name", None)
    if extra := next((name for name, modules in _EXTRAS.items() if missing in modules), None):
        return f"this command needs {missing}; {_mend(checkout, extra)}"
    said = (str(error) or type(error).__name__).splitlines()[0].partition(". ")[0]
    return f"the installed packages don't fit this version of Vireo: {said}; {_mend(checkout)}"


def _mend(checkout: Path, extra: str | None = None) -> str:
    if (checkout / "Makefile").exists():
        return f"run: make -B -C {checkout} setup"
    if extra:
        return f"install it with: pip install 'vireo[{extra}]'"
    return f"install it again: pip install --force-reinstall vireo=={version('vireo')}"

"""Prints the SBOM of an image, CycloneDX 1.6: packages of Python and Debian, and programs.

`python sbom.py ROLE`, by the Python of an environment with cyclonedx-bom, in the image's build.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

_PROGRAMS = {
    "envoy": {
        "purl": "pkg:github/envoyproxy/envoy@v{}",
        "cpe": "cpe:2.3:a:envoyproxy:envoy:{}:*:*:*:*:*:*:*",
    },
    "nats-server": {"purl": "pkg:golang/github.com/nats-io/nats-server/v2@v{}"},
    "weed": {"purl": "pkg:github/seaweedfs/seaweedfs@{}"},
}
"""Programs that wheels bring, as lists of vulnerabilities name them: not as their wheels."""
_FORMAT = "${Package}\t${Version}\t${Architecture}\t${source:Package}\n"


def python_packages(role: str) -> dict[str, Any]:
    """Return the SBOM of the environment in /opt/vireo, the project being what it is about."""
    command = (
        *(Path(sys.executable).with_name("cyclonedx-py"), "environment", "/opt/vireo/bin/python"),
        *("--pyproject", "pyproject.toml"),
        *("--output-format", "JSON", "--spec-version", "1.6"),
    )
    document = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    document["metadata"]["component"].update(type="container", name=f"vireo-{role}")
    return document  # type: ignore[no-any-return]


def programs() -> list[dict[str, Any]]:
    """Return a component for each program that the image has, with the version that it prints."""
    found = []
    for name, known in _PROGRAMS.items():
        if (program := Path("/opt/vireo/bin", name)).exists():
            command = [program, "version" if name == "weed" else "--version"]
            printed = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
            version = re.findall(r"\d+(?:\.\d+)+", printed)[0]
            names = {key: text.format(version) for key, text in known.items()}
            found.append({"type": "application", "name": name, "version": version, **names})
    return found


def debian_packages() -> list[dict[str, Any]]:
    """Return a component for each package of Debian."""
    distribution = f"debian-{platform.freedesktop_os_release()['VERSION_ID']}"
    query = subprocess.run(
        ["dpkg-query", "--show", "--showformat", _FORMAT],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    rows = [line.split("\t") for line in query.stdout.splitlines()]
    return [
        {
            "type": "library",
            "bom-ref": f"deb:{name}:{architecture}",
            "name": name,
            "version": version,
            "purl": f"pkg:deb/debian/{name}@{version.replace(':', '%3A').replace('+', '%2B')}"
            f"?arch={architecture}&distro={distribution}",
            "properties": [{"name": "debian:source", "value": source}],
        }
        for name, version, architecture, source in rows
    ]


def main() -> None:
    """Print the document; exit with what is wrong with it, if it isn't valid."""
    document = python_packages(sys.argv[1])
    document.setdefault("components", []).extend([*programs(), *debian_packages()])
    written = json.dumps(document, indent=1, sort_keys=True)
    if problem := JsonStrictValidator(SchemaVersion.V1_6).validate_str(written):
        raise SystemExit(f"the SBOM isn't CycloneDX: {problem}")
    sys.stdout.write(f"{written}\n")


if __name__ == "__main__":
    main()

"""Reads a page of a process's HTTP endpoint, as Prometheus and probes do."""

from __future__ import annotations

import urllib.error
import urllib.request


def page(
    port: int, path: str = "metrics", *, host: str = "127.0.0.1", accept: str = "*/*"
) -> tuple[int, str]:
    """The status and text of a page."""
    request = urllib.request.Request(f"http://{host}:{port}/{path}", headers={"Accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode().strip()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode().strip()

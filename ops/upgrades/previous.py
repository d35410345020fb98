"""The formats of the build before this one: `vireo upgrade formats --json`, as it printed them.

To take in a new one when a version is made: run that command, and write its output into this file.
A test holds this build to it: what the previous build wrote must be readable.
"""

from __future__ import annotations

from pathlib import Path

PREVIOUS = Path(__file__).parent / "previous.json"

"""The keys by which a stack's gateways sign page tokens."""

from __future__ import annotations

import os
import secrets
from base64 import b64encode

from vireo.ops.stack.settings import StackSettings

VARIABLE = "VIREO_PAGE_TOKEN_KEYS"
_BYTES = 32


def page_token_keys(settings: StackSettings) -> str:
    """Return the operator's keys, else that of this home, which is made once."""
    if own := os.environ.get(VARIABLE):
        return own
    # Imported here, since it imports cryptography, which those who only read don't need.
    from vireo.ops.stack.s3_keys import replace_private

    file = settings.home_folder.root / "page_token_keys"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_private(file, b"home:" + b64encode(secrets.token_bytes(_BYTES)))
    return file.read_text().strip()

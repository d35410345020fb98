"""Page tokens: they continue a slate without a video of the pages before, and without state."""

from __future__ import annotations

import binascii
import re
import struct
import time
from base64 import b64decode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from hmac import compare_digest

import xxhash
from pydantic import SecretStr

from vireo.v1 import recommendation_pb2 as pb

MAX_SHOWN = 2_500
"""Maximum videos of a slate's pages: a token has the key of each."""
MAX_AGE_SECONDS = 86_400
"""Seconds for which a token is valid."""
MIN_KEY_BYTES, MAX_KEY_BYTES = 16, 64
"""Bytes of a key to sign tokens with."""

VERSION = 1
_HEADER = struct.Struct(">B16sI16s")
"""Version, id of the key, when it was issued in Unix seconds, and digest of the request."""
_KEY_BYTES = 8
_DIGEST_BYTES = 16
_MAC_BYTES = 16
"""Bytes of the signature, the last of a token: keyed BLAKE2b, which takes a third of the time that
HMAC-SHA256 by OpenSSL does."""
_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,16}")


class BadPageTokenError(Exception):
    """A token that continues nothing; the message says why, for the caller."""


class PageTokens:
    """Issues tokens, and reads those of any gateway that has one of the same keys."""

    def __init__(self, keys: Mapping[str, bytes], clock: Callable[[], float] = time.time) -> None:
        """Sign by the first key, and accept the signatures of all.

        Args:
            keys: secrets by their ids, one at least; see `signing_keys`.
            clock: Unix time in seconds.
        """
        self._keys = {name.encode().ljust(16, b"\0"): key for name, key in keys.items()}
        self._signing_id, self._signing_key = next(iter(self._keys.items()))
        self._clock = clock

    def issue(self, request: pb.RecommendRequest, shown: bytes, ids: Iterable[str]) -> str:
        """Return the token of the next page; empty after MAX_SHOWN videos.

        Args:
            request: the valid request for this page; it is changed, which is cheaper than a copy.
            shown: what `read` returned of it; empty for a first page.
            ids: the videos of this page.
        """
        key_of = xxhash.xxh3_64_digest
        keys = shown + b"".join([key_of(video_id.encode()) for video_id in ids])
        if len(keys) > MAX_SHOWN * _KEY_BYTES:
            return ""
        now = int(self._clock())
        signed = _HEADER.pack(VERSION, self._signing_id, now, _digest(request)) + keys
        return urlsafe_b64encode(signed + _mac(self._signing_key, signed)).decode().rstrip("=")

    def read(self, request: pb.RecommendRequest) -> bytes:
        """Return the keys of the videos on the pages before, 8 bytes each; see `shown_keys`.

        Raises:
            BadPageTokenError: the token was changed or has expired, is of another request, or was
                signed by none of the keys.
        """
        token = _decoded(request.page_token)
        signed, mac = token[:-_MAC_BYTES], token[-_MAC_BYTES:]
        if len(signed) < _HEADER.size or (len(signed) - _HEADER.size) % _KEY_BYTES:
            raise BadPageTokenError("isn't a whole next_page_token")
        version, key_id, issued, digest = _HEADER.unpack_from(signed)
        if version != VERSION:
            raise BadPageTokenError("isn't a next_page_token, or is of another version of Vireo")
        key = self._keys.get(key_id)
        if key is None:
            raise BadPageTokenError("was signed by a key that isn't in use; begin a new slate")
        if not compare_digest(mac, _mac(key, signed)):
            raise BadPageTokenError("was changed: its signature doesn't match")
        if self._clock() - issued > MAX_AGE_SECONDS:
            raise BadPageTokenError("has expired: it is older than a day; begin a new slate")
        asked = pb.RecommendRequest()
        asked.CopyFrom(request)
        if digest != _digest(asked):
            raise BadPageTokenError(
                "is of another request: only page_size, explain and context.time may differ "
                "between the pages of a slate"
            )
        return signed[_HEADER.size :]


def shown_keys(shown: bytes) -> Sequence[int]:
    """Return the video keys of what `PageTokens.read` returned."""
    return struct.unpack(f">{len(shown) // _KEY_BYTES}q", shown)


def signing_keys(setting: SecretStr) -> dict[str, bytes]:
    """Return the keys of a setting by their ids: `id:base64,id:base64`; empty for none.

    Raises:
        ValueError: it isn't such a list; the message doesn't quote it.
    """
    keys: dict[str, bytes] = {}
    for place, each in enumerate(filter(None, setting.get_secret_value().split(",")), start=1):
        name, _, encoded = each.strip().partition(":")
        if not _KEY_ID.fullmatch(name) or name in keys:
            raise ValueError(
                f"key {place} must begin with an id of its own and a colon; ids are 1 to 16 "
                "letters, digits, - or _"
            )
        try:
            keys[name] = b64decode(encoded, validate=True)
        except binascii.Error:
            raise ValueError(f"key {place} must be base64 after its id and a colon") from None
        if not MIN_KEY_BYTES <= len(keys[name]) <= MAX_KEY_BYTES:
            raise ValueError(f"key {place} must have {MIN_KEY_BYTES} to {MAX_KEY_BYTES} bytes")
    return keys


def _digest(request: pb.RecommendRequest) -> bytes:
    """Return a digest of what must not differ between two pages; clear the rest of the request."""
    request.ClearField("page_token")
    request.ClearField("page_size")
    request.ClearField("explain")
    if request.HasField("context"):
        context = request.context
        context.ClearField("time")
        if not context.ByteSize():  # as if only the time had never been in it
            request.ClearField("context")
    content = request.SerializeToString(deterministic=True)
    return blake2b(content, digest_size=_DIGEST_BYTES).digest()


def _mac(key: bytes, signed: bytes) -> bytes:
    return blake2b(signed, digest_size=_MAC_BYTES, key=key).digest()


def _decoded(token: str) -> bytes:
    """Return a token's bytes; raise BadPageTokenError unless it is exactly their encoding."""
    try:
        decoded = urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except ValueError:
        raise BadPageTokenError("isn't a next_page_token") from None
    if urlsafe_b64encode(decoded).decode().rstrip("=") != token:
        raise BadPageTokenError("isn't a next_page_token")
    return decoded

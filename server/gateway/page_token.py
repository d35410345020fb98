"""Page tokens: they continue a slate without a video of the pages before, and without state.

They need no signature: whoever makes one up gets a page that the same caller may ask for anyway,
without MAX_SHOWN videos of its choice and, as on any later page, without pins. The digest shows
what was cut or damaged on the way.
"""

from __future__ import annotations

import struct
import time
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from vireo.server.features.keys import video_key
from vireo.server.rpc.errors import RpcError, invalid_argument
from vireo.v1 import recommendation_pb2 as pb

MAX_SHOWN = 2_500
"""Maximum videos of a slate's pages: a token has the key of each."""
MAX_AGE_SECONDS = 86_400
"""Seconds for which a token is valid."""

VERSION = 2
_HEADER = struct.Struct(">BI16s")
"""Version, when it was issued in Unix seconds, and digest of the request and the keys."""
_KEY_BYTES = 8


def next_page_token(
    request: pb.RecommendRequest, shown: Sequence[int], video_ids: Iterable[str]
) -> str:
    """Return the token of the next page; empty after MAX_SHOWN videos.

    Args:
        request: the valid request for this page; it is changed, which is cheaper than a copy.
        shown: keys of the videos on the pages before.
        video_ids: the videos of this page.
    """
    keys = [*shown, *map(video_key, video_ids)]
    if len(keys) > MAX_SHOWN:
        return ""
    packed = struct.pack(f">{len(keys)}q", *keys)
    header = _HEADER.pack(VERSION, int(time.time()), _digest(request, packed))
    return urlsafe_b64encode(header + packed).decode().rstrip("=")


def shown_keys(request: pb.RecommendRequest) -> Sequence[int]:
    """Return the keys of the videos on the pages before that of a request with a token.

    Raises:
        RpcError: INVALID_ARGUMENT: it isn't a whole token, has expired, or is of another request.
    """
    text = request.page_token
    try:
        token = b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
    except ValueError:
        token = b""
    count, rest = divmod(len(token) - _HEADER.size, _KEY_BYTES)
    if rest or not 0 < count <= MAX_SHOWN:
        raise _refusal("isn't a whole next_page_token")
    version, issued, digest = _HEADER.unpack_from(token)
    if version != VERSION:
        raise _refusal("isn't a next_page_token, or is of another version of Vireo")
    if time.time() - issued > MAX_AGE_SECONDS:
        raise _refusal("has expired: it is older than a day; begin a new slate")
    asked = pb.RecommendRequest()
    asked.CopyFrom(request)
    if digest != _digest(asked, token[_HEADER.size :]):
        raise _refusal(
            "isn't whole, or is of another request: only page_size, explain and context.time may "
            "differ between the pages of a slate"
        )
    return struct.unpack_from(f">{count}q", token, _HEADER.size)


def _refusal(reason: str) -> RpcError:
    return invalid_argument([("page_token", reason)])


def _digest(request: pb.RecommendRequest, keys: bytes) -> bytes:
    """Return a digest of the keys shown and of what must not differ between two pages.

    The rest of the request is cleared.
    """
    request.ClearField("page_token")
    request.ClearField("page_size")
    request.ClearField("explain")
    if request.HasField("context"):
        context = request.context
        context.ClearField("time")
        if not context.ByteSize():  # as if only the time had never been in it
            request.ClearField("context")
    content = request.SerializeToString(deterministic=True)
    return blake2b(keys + content, digest_size=16).digest()

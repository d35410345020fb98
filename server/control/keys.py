"""The public keys of those who sign callers' tokens, from a file or a URL, followed."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from threading import Event, Timer
from typing import Any, Never
from urllib.parse import urlsplit

import structlog

from server.control.attempts import Attempts, follow
from server.control.bounded_file import read_bounded
from server.errors import VireoError

log = structlog.get_logger()

_MEMBERS: Mapping[str, tuple[str, ...]] = {"RSA": ("n", "e"), "EC": ("x", "y"), "OKP": ("x",)}
"""What a public key of each kind consists of. All else is optional."""
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+={0,2}")
_WORDS = ("kty", "kid", "alg", "use", "crv")
_FILE_SECONDS = 0.5
_SILENT_SECONDS = 5.0
"""How long a server may say nothing."""
_FETCH_SECONDS = 10.0
"""How long an answer may take in all, so that one that comes byte by byte ends, too."""
_MAX_BYTES = 1 << 20
_MAX_KEYS = 100
_MAX_SHOWN = 64
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class KeysError(VireoError):
    """The keys can't be had, or can't serve to check tokens; the message says why."""


async def follow_keys(
    source: str, seconds: float, changed: Callable[[str], None], attempts: Attempts
) -> None:
    """Call `changed` with the JSON Web Key Set, at first and on each change, until cancelled.

    While the source fails, or gives what isn't fit, the keys known stay: who could check tokens
    goes on to. Without any keys none are told, and the edge stays closed.

    Args:
        source: path of a file, or URL.
        seconds: between two looks at a URL; a file is looked at more often.
        changed: is called with the set as JSON.
        attempts: notes how it goes.
    """
    remote = "://" in source
    told = False

    def read() -> str:
        text = _fetch(source) if remote else read_bounded(Path(source), _MAX_BYTES)
        return checked(text, source)

    def tell(keys: str) -> None:
        nonlocal told
        changed(keys)
        told = True
        log.info("keys of tokens", source=source, ids=_ids(keys))

    def pause() -> float:
        # One that could not be had at first holds up the start: it is asked for again soon.
        return attempts.pause(seconds if remote and told else _FILE_SECONDS)

    await follow(attempts, read, tell, pause)


def checked(text: bytes, source: str) -> str:
    """Return a JSON Web Key Set in one form: its members in order, and only those that count.

    Raises:
        KeysError: it is none, has no keys, or has one that is secret or isn't whole. Envoy would
            take such a set, and refuse every token.
    """
    try:
        keys = json.loads(text, parse_constant=_refuse)["keys"]
        kinds = {key["kty"] for key in keys}
        members = {member for key in keys for member in key}
    except Exception as error:
        # Whatever a document can make the parser raise, RecursionError among it.
        raise KeysError(f"{source} is no JSON Web Key Set") from error
    if not keys:
        raise KeysError(f"{source} has no keys")
    if len(keys) > _MAX_KEYS:
        raise KeysError(f"{source} has more than {_MAX_KEYS} keys")
    if not kinds <= _MEMBERS.keys() or members & _PRIVATE:
        # Whoever can read a shared key can sign with it.
        raise KeysError(f"{source} has a key that isn't public; give only public ones, RSA or EC")
    for number, key in enumerate(keys, start=1):
        if not _is_whole(key):
            raise KeysError(f"{source}: key {number} isn't one that tokens can be checked by")
    told = [
        {name: key[name] for name in (*_WORDS, *_MEMBERS[key["kty"]]) if name in key}
        for key in keys
    ]
    return json.dumps({"keys": told}, sort_keys=True)


def _is_whole(key: Mapping[str, Any]) -> bool:
    """Whether a key has what its kind consists of, and says nothing that isn't text."""
    parts = [key.get(name) for name in _MEMBERS[key["kty"]]]
    return all(isinstance(part, str) and _BASE64URL.fullmatch(part) for part in parts) and all(
        isinstance(key[word], str) for word in _WORDS if word in key
    )


def _refuse(constant: str) -> Never:
    raise ValueError(f"{constant} is no JSON")


def check_source(source: str) -> None:
    """Raise ValueError if keys from there could be anyone's."""
    if "://" not in source:
        return
    url = urlsplit(source)
    if url.scheme == "https" or (url.scheme == "http" and url.hostname in _LOOPBACK):
        return
    raise ValueError("keys are fetched over https alone, or from this machine")


def _ids(text: str) -> list[str]:
    return [key.get("kid", "")[:_MAX_SHOWN] for key in json.loads(text)["keys"]]


def _fetch(url: str) -> bytes:
    """Return what a URL answers; redirects aren't followed.

    The standard library's client, since its socket can be cut from outside: time-outs of clients
    are for each read, and a server that drips resets them. What comes before
    needs no cut: the handshake ends within the silent seconds in all, and so does the connection to
    each address; a lookup ends by the resolver's own time-out.
    """
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=_SILENT_SECONDS)
    try:
        connection.connect()
        with _cut_in_time(connection.sock) as cut:
            path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
            connection.request("GET", path, headers={"Accept": "application/json"})
            answer = connection.getresponse()
            body = answer.read(_MAX_BYTES + 1) if answer.status == 200 else b""
        if cut.is_set():
            raise TimeoutError(f"no whole answer in {_FETCH_SECONDS:g} s")
    except (OSError, HTTPException) as error:
        words = str(error) or type(error).__name__
        raise KeysError(f"{url} can't be fetched: {words}") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise KeysError(f"{url} answered {answer.status}")
    if len(body) > _MAX_BYTES:
        raise KeysError(f"{url} answered more than {_MAX_BYTES} bytes")
    return body


@contextmanager
def _cut_in_time(connected: socket.socket) -> Iterator[Event]:
    """Shut a socket down if the block lasts too long, and say so by an event."""
    is_cut = Event()

    def cut() -> None:
        is_cut.set()
        with suppress(OSError):  # it has ended by itself
            connected.shutdown(socket.SHUT_RDWR)

    watchdog = Timer(_FETCH_SECONDS, cut)
    watchdog.daemon = True
    watchdog.start()
    try:
        yield is_cut
    finally:
        watchdog.cancel()

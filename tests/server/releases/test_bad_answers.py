"""Whatever answers in S3's place, every caller of the store gets the store's own error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.builders.answering import answering, reply
from tests.builders.s3 import unreachable_s3
from vireo.server.releases.bucket import StoreError
from vireo.server.releases.channels import Change, Channel, ChannelPointer
from vireo.server.releases.store import ReleaseStore

pytestmark = pytest.mark.slow

_LISTING = '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">%s</ListBucketResult>'


class Answer(NamedTuple):
    """What the server below answers to everything."""

    status: int
    body: bytes = b""
    content_type: str | None = "application/xml"


ANSWERS = {
    "a proxy's page": Answer(503, b"<html><br>Bad gateway", "text/html"),
    "a proxy's page in XML's name": Answer(502, b"<html><br>Bad gateway"),
    "a long page": Answer(404, b"<p>" * 100_000, "text/html"),
    "bytes that aren't text": Answer(400, b"\xff\xfe\x00", "text/html"),
    "bytes in XML's name": Answer(500, b"\xff\xfe\x00"),
    "nothing": Answer(500),
    "nothing, without a type": Answer(403, b"", None),
    "XML of something else": Answer(403, b"<note>hello</note>"),
    "a conflict": Answer(409),
    "a redirect without a place": Answer(307),
    "nothing, in success": Answer(200),
    "a sign-in page, in success": Answer(200, b"<html><br>Sign in", "text/html"),
    "a listing without names": Answer(200, (_LISTING % "<Contents/>").encode()),
    "a listing of nonsense": Answer(
        200,
        (
            _LISTING % "<Contents><Key>channels/a.json</Key><Size>big</Size>"
            "<LastModified>soon</LastModified></Contents>"
        ).encode(),
    ),
}


def channel() -> Channel:
    pointer = {"release_id": "r", "updated_at": "2024-01-01T00:00:00Z", "updated_by": "ada"}
    return Channel("production", ChannelPointer.model_validate(pointer), '"etag"')


ASKED: dict[str, Callable[[ReleaseStore, Path], object]] = {
    "read a channel": lambda store, _: store.read_channel("production"),
    "all channels": lambda store, _: store.channels.all(),
    "history": lambda store, _: store.channels.history("production", 3),
    "a manifest": lambda store, _: store.manifest("r"),
    "a file": lambda store, _: list(store.read("r", "popular.json")),
    "list": lambda store, _: store.list(),
    "promote": lambda store, _: store.change_channel("production", Change("r"), channel()),
    "put a file": lambda store, file: store.bucket.put_file("a", file),
    "swap": lambda store, _: store.bucket.swap("a", b"new", '"etag"'),
    "remove": lambda store, _: store.bucket.remove("a"),
    "remove if": lambda store, _: store.bucket.remove_if("a", '"etag"'),
    "list objects": lambda store, _: store.bucket.objects("releases/", recursive=True),
    "make the bucket": lambda store, _: store.bucket.make(),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_that_is_not_s3s_gives_the_stores_own_error_and_no_other(
    tmp_path: Path, answer: Answer
) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with answering(lambda request, _: reply(request, *answer)) as port:
        there = {"endpoint": f"127.0.0.1:{port}"}
        store = ReleaseStore(unreachable_s3().model_copy(update=there))
        for what, ask in ASKED.items():
            message = ""
            try:
                ask(store, tmp_path / "file")
            except StoreError as error:
                message = str(error)
            except Exception as error:  # noqa: BLE001
                pytest.fail(f"{what}: {type(error).__name__}: {error}")
            assert len(message) < 500, what
            assert message.isprintable(), what
            # Some can take it for an answer: a file of nothing, a bucket that was never made.
            assert message or answer.status in (200, 404, 409), what

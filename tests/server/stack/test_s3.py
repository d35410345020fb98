"""The embedded S3 server."""

from __future__ import annotations

import io
import json
import stat
import urllib.request
from pathlib import Path

import pytest
from minio import Minio

from bench.stack import free_port_base
from server.errors import VireoError
from server.releases.s3 import S3Settings
from server.stack.s3 import answers, embedded_s3
from server.stack.settings import StackSettings

pytestmark = pytest.mark.integration


def client(server: S3Settings) -> Minio:
    return Minio(
        server.endpoint, server.access_key, server.secret_key.get_secret_value(), secure=False
    )


def test_it_keeps_objects_and_keys_over_restarts_on_other_ports(tmp_path: Path) -> None:
    with embedded_s3(StackSettings(home=tmp_path, port_base=free_port_base())) as first:
        client(first).put_object(first.bucket, "a/b", io.BytesIO(b"kept"), 4)
        # A second command finds the one that runs.
        with embedded_s3(StackSettings(home=tmp_path, port_base=1024)) as same:
            assert same == first
        assert answers(first)
    assert not answers(first)
    with embedded_s3(StackSettings(home=tmp_path, port_base=free_port_base())) as second:
        assert second.endpoint != first.endpoint
        assert second.secret_key == first.secret_key
        assert client(second).get_object(second.bucket, "a/b").read() == b"kept"
        wrong = second.model_copy(update={"access_key": "guessed"})
        assert not answers(wrong)
    for name in ("s3.json", "endpoint"):
        assert stat.S_IMODE((tmp_path / "s3" / name).stat().st_mode) == 0o600


def test_how_many_buckets_it_holds_does_not_hang_on_the_free_disk(tmp_path: Path) -> None:
    settings = StackSettings(home=tmp_path, port_base=free_port_base())
    with embedded_s3(settings):
        master = f"http://127.0.0.1:{settings.s3_port + 4}/dir/status"
        with urllib.request.urlopen(master, timeout=30) as response:
            topology = json.load(response)["Topology"]
    assert topology["Max"] == 1000


def test_a_taken_port_is_told_before_it_is_started(tmp_path: Path) -> None:
    base = free_port_base()
    with (
        embedded_s3(StackSettings(home=tmp_path / "one", port_base=base)),
        pytest.raises(VireoError, match=f"port {base + 10} .*VIREO_S3_PORT"),
        embedded_s3(StackSettings(home=tmp_path / "other", port_base=base)),
    ):
        pass

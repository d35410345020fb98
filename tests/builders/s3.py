"""Runs the real S3 server on free ports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minio import Minio

from vireo.ops.stack.ports import free_port_base
from vireo.ops.stack.s3 import embedded_s3
from vireo.ops.stack.settings import StackSettings
from vireo.server.releases.s3 import S3Settings


@contextmanager
def running_s3(home: Path) -> Iterator[S3Settings]:
    """An S3 server whose state lies below `home`, ready; stopped in the end."""
    with embedded_s3(StackSettings(home=home, port_base=free_port_base())) as settings:
        yield settings


def client_of(settings: S3Settings) -> Minio:
    """The bare SDK, to look at or damage what the store wrote."""
    return Minio(
        settings.endpoint,
        settings.access_key,
        settings.secret_key.get_secret_value(),
        secure=settings.secure,
        region=settings.region,
    )


def unreachable_s3() -> S3Settings:
    """Settings of an S3 server that isn't there: port 1 is nobody's."""
    settings = S3Settings(endpoint="127.0.0.1:1", access_key="key", secret_key="secret")  # type: ignore[arg-type]
    return settings.with_patience(retries=0)

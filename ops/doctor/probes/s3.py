"""S3: whether it answers with these keys, and what its channels name."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from vireo.ops.doctor.deployment import Deployment, Probe
from vireo.ops.doctor.facts import Channel, Facts, Fault, Part
from vireo.ops.doctor.reach import UnansweredError, get, is_loopback, reach, split, words
from vireo.server.errors import VireoError

_PORTS = {False: 80, True: 443}


def probes(deployment: Deployment) -> Iterator[Probe]:
    """Yield the probe of S3."""
    if deployment.s3:
        yield Probe("S3", partial(_ask, deployment))
    else:
        yield Probe.unnamed("S3", "set VIREO_S3_ENDPOINT and its keys")


def _ask(deployment: Deployment) -> Facts:
    from vireo.server.releases.store import ReleaseStore
    from vireo.server.releases.store_errors import (
        NotInStoreError,
        StoreError,
        StoreUnavailableError,
    )

    settings = deployment.s3
    assert settings is not None
    where = f"S3 at {settings.endpoint}"
    address = settings.endpoint
    if ":" not in address:
        address = f"{address}:{_PORTS[settings.secure]}"
    if fault := reach(address):
        return Facts(parts=(Part("s3", where, fault, words(fault)),))
    short_timeouts = {"connect_timeout": 1.0, "read_timeout": deployment.answer, "retries": 0}
    store = ReleaseStore(settings.model_copy(update=short_timeouts))
    try:
        channel = store.read_channel(deployment.channel)
    except NotInStoreError:
        channel = None  # nothing was ever published
    except StoreError as error:
        away: Fault = "silent" if isinstance(error, StoreUnavailableError) else "failed"
        return Facts(parts=(Part("s3", where, away, str(error)),))
    named = Channel(
        deployment.channel,
        channel.release_id if channel else "",
        channel.pointer.share if channel else 0.0,
    )
    clocks = Facts()
    if not is_loopback(split(address)[0]):
        clocks = _clock(f"http{'s' if settings.secure else ''}://{settings.endpoint}/", deployment)
    return Facts.merged([Facts(parts=(Part("s3", where),), channels=(named,)), clocks])


def _clock(url: str, deployment: Deployment) -> Facts:
    try:
        clock = get(url, deployment.answer).clock
    except UnansweredError as error:
        raise VireoError(f"its clock: {error}") from error
    return Facts(clocks=(clock,) if clock else ())

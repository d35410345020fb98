"""Which data set's features a consumer follows."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from vireo.server.consumer import consumer
from vireo.server.consumer.consumer import ConsumerSettings, ServedDataset
from vireo.server.releases.channels import Change
from vireo.server.releases.manifest import ReleaseError
from vireo.server.releases.s3 import S3Settings
from vireo.server.releases.store import ReleaseStore


async def test_features_of_a_release_that_only_another_build_serves_are_followed(
    s3: S3Settings, release_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "POLL_SECONDS", 0.05)
    store = ReleaseStore(s3.model_copy(update={"bucket": "other-builds"}))
    store.publish(release_folder)
    place = "releases/tiny-1/manifest.json"
    found = store.bucket.get(place)
    assert found is not None
    store.change_channel("production", Change("tiny-1"), None)
    newer = json.loads(found[0]) | {"format_version": 6, "of": "a newer build", "dataset": "newer"}
    assert store.bucket.swap(place, json.dumps(newer).encode(), found[1])
    with pytest.raises(ReleaseError, match="format_version is 6"):
        store.manifest("tiny-1")

    dataset = ServedDataset(ConsumerSettings(port=0, s3=store.settings))
    following = asyncio.create_task(dataset.run())
    try:
        async with asyncio.timeout(20):
            await dataset.known.wait()
    finally:
        following.cancel()
    assert dataset.name == "newer"


def test_what_is_no_manifest_has_no_data_set(s3: S3Settings, release_folder: Path) -> None:
    store = ReleaseStore(s3.model_copy(update={"bucket": "no-manifests"}))
    store.bucket.make()
    for body, reason in ((b"[]", "manifest field"), (b"{", "isn't a manifest")):
        found = store.bucket.get("releases/x/manifest.json")
        assert store.bucket.swap("releases/x/manifest.json", body, found[1] if found else None)
        with pytest.raises(ReleaseError, match=reason):
            store.dataset("x")

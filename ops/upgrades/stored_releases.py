"""What S3 holds: channels with their history, and the releases that these name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from vireo.ops.upgrades.documents import document_fields
from vireo.ops.upgrades.held import Held, Part, parsed_object
from vireo.ops.upgrades.this_build import CHANNEL, MARKER, RELEASE, SCHEMA
from vireo.server.releases.channel_document import ChannelDocument, ChannelPointer, parse_record
from vireo.server.releases.manifest import FeatureSchema, Manifest, ReleaseError
from vireo.server.releases.markers import Marker, manifest_place, read_manifest_object
from vireo.server.releases.store import ReleaseStore
from vireo.server.releases.store_errors import StoreError

_LAST_RECORDS = 20
"""Records of a channel's history that are read: a rollback goes back to one of them."""


def stored_releases(store: ReleaseStore) -> Part:
    """Return what the store holds."""
    try:
        return Part(name="S3", held=tuple(_held(store)))
    except StoreError as error:
        return Part(name="S3", away=str(error))


def _held(store: ReleaseStore) -> Iterator[Held]:
    bucket = store.bucket
    if not bucket.exists():
        return
    named: dict[str, None] = {}
    for stored in bucket.objects("channels/"):
        if not stored.name.endswith(".json"):
            continue
        channel = stored.name.removeprefix("channels/").removesuffix(".json")
        records = [each.name for each in bucket.objects(f"channels/history/{channel}/")]
        for place in [stored.name, *records[-_LAST_RECORDS:]]:
            found = bucket.get(place)
            if found is None:
                continue
            body, etag = found
            yield _channel(place, body, etag, record=place != stored.name)
            if release_id := parsed_object(body).get("release_id"):
                named[str(release_id)] = None
    for release_id in named:
        yield from _release(store, release_id)


def _channel(place: str, body: bytes, etag: str, *, record: bool) -> Held:
    problem = ""
    try:
        if record:
            parse_record(body, place)
        else:
            ChannelDocument.parse(body, etag, place)
    except StoreError as error:
        problem = str(error)
    document = parsed_object(body)
    document.pop("pending", None)
    return Held(
        where=place,
        format=CHANNEL,
        fields=tuple(document_fields(document, ChannelPointer)),
        problem=problem,
    )


def _release(store: ReleaseStore, release_id: str) -> Iterator[Held]:
    try:
        found = read_manifest_object(store.bucket, release_id)
    except ReleaseError as error:  # the id itself is unfit
        yield Held(where=release_id, format=RELEASE, problem=str(error))
        return
    if found is None:
        return  # `vireo release gc` removed it: no format is at fault
    place = manifest_place(release_id)
    if found.marker is not None:
        document = parsed_object(found.body)
        yield Held(where=place, format=MARKER, fields=tuple(document_fields(document, Marker)))
    if found.manifest is not None:
        yield from held_manifest(place, found.manifest)


def held_manifest(where: str, body: bytes) -> Iterator[Held]:
    """Yield a manifest, and the feature schema in it."""
    problem = ""
    try:
        Manifest.parse(body, where)
    except ReleaseError as error:
        problem = str(error).removeprefix(f"{where}: ")
    document = parsed_object(body)
    fields = tuple(document_fields(document, Manifest))
    version = json.dumps(document.get("format_version", ""))
    schema = _schema(document)
    # One of the two is at fault; a schema says more.
    by_schema = bool(schema) and "feature_schema." in problem
    yield Held(
        where=where,
        format=RELEASE,
        version=version,
        fields=fields,
        problem="" if by_schema else problem,
    )
    if schema:
        yield Held(
            where=where, format=SCHEMA, fields=tuple(schema), problem=problem if by_schema else ""
        )


def _schema(document: dict[str, Any]) -> list[str]:
    """Return the features of a manifest, named as in `schema_fields`; none if it has none."""
    try:
        schema = FeatureSchema.model_validate(document.get("feature_schema"))
    except ValidationError:
        return []
    names = ("retrieval_features", "tasks", "video_features", "match_features", "viewer_features")
    found = [f"{kind}.{name}" for kind in names for name in getattr(schema, kind)]
    found += [f"constants.{name}={value}" for name, value in schema.constants.items()]
    return found + [
        f"context_features.{name}={size}" for name, size in schema.context_features.items()
    ]

"""The formats of this build, from the code that reads and writes them."""

from __future__ import annotations

import importlib.util
from importlib.metadata import version

from pydantic import BaseModel

from vireo.ops.stack.state import StackState
from vireo.ops.upgrades.documents import message_fields, model_fields, required_fields
from vireo.ops.upgrades.formats import Build, Format, UnknownFields, Written
from vireo.server.features.activity import EventRules
from vireo.server.features.constants import feature_constants
from vireo.server.features.context import CONTEXT
from vireo.server.features.ranking_inputs import (
    LANGUAGE_MATCH,
    MATCH_FEATURES,
    RETRIEVAL_FEATURES,
    VIDEO_FEATURES,
    VIEWER_FEATURES,
)
from vireo.server.gateway import batch, page_token
from vireo.server.gateway.online_rows import FEATURE_SERVICE
from vireo.server.releases.channel_document import ChannelPointer
from vireo.server.releases.manifest import FORMAT_VERSION, Manifest
from vireo.server.releases.markers import Marker
from vireo.server.signals import TASKS
from vireo.v1 import event_pb2, log_pb2

RELEASE, SCHEMA = "release manifest", "feature schema"
CHANNEL, MARKER = "channel", "release marker"
RULES, VIEWS, SPLIT = "event rules", "online store", "features"
EVENTS, KINDS, DEAD = "event messages", "kinds of events", "dead events"
CATALOG, TRENDING, PROGRESS = "catalogue changes", "trending", "consumer progress"
PAGE_TOKEN, BATCH_TOKEN = "page token", "batch token"
DATA, STACK = "data set", "stack state"

_TRAIN = "train again with that build; until then its pods serve the release that they have"
_REBUILD = "build the features again: vireo features build"


def this_build() -> Build:
    """Return what this build writes and reads; of data sets only if training is installed."""
    formats = [*_releases(), *_online(), *_log(), *_edge()]
    if importlib.util.find_spec("pyarrow") is not None:
        formats += _training()
    return Build(build=f"vireo {version('vireo')}", formats=tuple(formats))


def schema_fields() -> dict[str, Written]:
    """Return the features that this build computes, and the outputs of its ranker."""
    always = {
        "retrieval_features": RETRIEVAL_FEATURES,
        "tasks": [task.name for task in TASKS if not task.optional],
        "video_features": VIDEO_FEATURES,
        "match_features": MATCH_FEATURES,
        "viewer_features": VIEWER_FEATURES,
        "constants": [f"{name}={float(value)}" for name, value in feature_constants().items()],
    }
    found: dict[str, Written] = {
        f"{kind}.{name}": "always" for kind, names in always.items() for name in names
    }
    found[f"match_features.{LANGUAGE_MATCH}"] = "if set"
    found |= {f"tasks.{task.name}": "if set" for task in TASKS if task.optional}
    for feature in CONTEXT:
        found[f"context_features.{feature.name}={feature.size}"] = "if set"
    return found


def _document(
    name: str,
    model: type[BaseModel],
    *,
    version: str = "",
    unknown_fields: UnknownFields = "ignored",
    effect: str = "",
) -> Format:
    """Return the format of a JSON document with the fields of `model`."""
    return Format(
        name=name,
        version=version,
        reads=(version,),
        fields=model_fields(model),
        required=required_fields(model),
        unknown_fields=unknown_fields,
        effect=effect,
    )


def _releases() -> list[Format]:
    number, schema = str(FORMAT_VERSION), schema_fields()
    return [
        _document(
            RELEASE,
            Manifest,
            version=number,
            unknown_fields="refused",
            effect=_TRAIN,
        ),
        Format(
            name=SCHEMA,
            fields=schema,
            required=tuple(name for name, when in schema.items() if when == "always"),
            unknown_fields="refused",
            effect=_TRAIN,
        ),
        _document(
            CHANNEL,
            ChannelPointer,
            effect="set the channel again: vireo release promote",
        ),
        _document(MARKER, Marker),
    ]


def _online() -> list[Format]:
    views = ("viewer_activity", "viewer_hidden", "consumer_position", FEATURE_SERVICE)
    return [
        _document(
            RULES,
            EventRules,
            unknown_fields="refused",
            effect=f"consumers wait; {_REBUILD}",
        ),
        Format(
            name=VIEWS,
            version="3",
            reads=("3",),
            fields=dict.fromkeys((*views, "viewer_profile", "video_statistics"), "always"),
            required=views,
            effect=f"gateways go without features, and consumers wait; {_REBUILD}",
        ),
    ]


def _log() -> list[Format]:
    return [
        Format(name=name, fields=message_fields(message.DESCRIPTOR))
        for name, message in (
            (EVENTS, log_pb2.RecordedEvents),
            (DEAD, log_pb2.DeadEvents),
            (CATALOG, log_pb2.CatalogChange),
            (TRENDING, log_pb2.Trending),
            (PROGRESS, log_pb2.ConsumerProgress),
        )
    ] + [
        Format(
            name=KINDS,
            fields=dict.fromkeys(event_pb2.EventKind.keys(), "if set"),
            unknown_fields="refused",
            effect="consumers set such events aside; once upgraded: vireo events replay --dead",
        )
    ]


def _edge() -> list[Format]:
    tokens = ((PAGE_TOKEN, page_token.VERSION), (BATCH_TOKEN, batch.VERSION))
    return [
        Format(
            name=name,
            version=str(number),
            reads=(str(number),),
            effect="callers get INVALID_ARGUMENT, and begin anew",
        )
        for name, number in tokens
    ] + [
        _document(
            STACK,
            StackState,
            effect="commands don't find the stack: stop it with the build that started it",
        )
    ]


def _training() -> list[Format]:
    from vireo.training.data.dataset import DatasetInfo
    from vireo.training.features.watches import FEATURES_FORMAT, Split

    return [
        _document(
            DATA,
            DatasetInfo,
            unknown_fields="refused",
            effect="fetch or import the data set again with --force",
        ),
        _document(
            SPLIT,
            Split,
            version=str(FEATURES_FORMAT),
            unknown_fields="refused",
            effect="`vireo train` builds them again by itself; or: vireo features build",
        ),
    ]

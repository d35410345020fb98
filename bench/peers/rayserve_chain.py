"""Ray Serve: a chain of three deployments, or both stages in one; viewers' features in memory.

It has its own switches for speed, and nothing that costs time for each request.
`RAY_SERVE_THROUGHPUT_OPTIMIZED` is Ray's own set of them: no proxy process before the replica that
gets requests, replicas that call each other by gRPC, user code and routers on the loop that reads
requests, and objects of the start exempt from garbage collection.

    python -m bench.peers.rayserve_chain PORT RELEASE VIEWERS [one]

VIEWERS is a file of viewers' features by id, pickled; the port after PORT must be free, too. With
`one` a single replica has both stages.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse

from vireo.server.features.viewer import ViewerFeatures
from vireo.server.recommend.ranking.pipeline import RankingPipeline
from vireo.server.recommend.ranking.release import RankingQuery, RankingRelease
from vireo.server.recommend.retrieval.pipeline import CandidatePipeline
from vireo.server.recommend.retrieval.query import CandidateQuery
from vireo.server.recommend.retrieval.release import CandidateRelease

_PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 0
# Ray reads them on import; the processes that it starts inherit them.
os.environ |= {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(_PORT),
    "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(_PORT + 1),
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "1",  # 0.1 by default, which costs processor time
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
}

import ray  # noqa: E402
from ray import serve  # noqa: E402
from ray.serve.config import HTTPOptions  # noqa: E402
from ray.serve.schema import LoggingConfig  # noqa: E402

_STORE_BYTES = 80_000_000
"""Shared memory for objects, of which there are none: close to Ray's minimum."""


class Candidate:
    """Retrieval."""

    def __init__(self, release: Path) -> None:
        """Load the release."""
        self.pipeline = CandidatePipeline(CandidateRelease.load(release))

    async def __call__(self, viewer: ViewerFeatures) -> tuple[Any, Any, Any]:
        """Return the candidates for one viewer: keys, scores by name, and masks of sources."""
        count = self.pipeline.release.manifest.candidates
        found = self.pipeline.retrieve(CandidateQuery(viewer, count))
        return found.keys, found.scores, found.source_masks


class Ranking:
    """Ranking."""

    def __init__(self, release: Path) -> None:
        """Load the release."""
        self.pipeline = RankingPipeline(RankingRelease.load(release))

    async def __call__(
        self, viewer: ViewerFeatures, found: tuple[Any, Any, Any], page_size: int
    ) -> dict[str, list[Any]]:
        """Return the ids and scores of the best candidates."""
        ranked = self.pipeline.rank(RankingQuery(viewer, *found, page_size=page_size))
        ids = [self.pipeline.release.ids[row] for row in ranked.rows.tolist()]
        return {"ids": ids, "scores": ranked.scores.tolist()}


class Gateway:
    """Two calls, and the slate."""

    def __init__(self, viewers: Path, release: Path, *stages: Any) -> None:
        """Load viewers' features, and hold both stages: handles of them or, without, its own."""
        body = viewers.read_bytes()
        self.viewers: dict[str, ViewerFeatures] = pickle.loads(body)  # noqa: S301 - our own
        self.find: Any = None if stages else Candidate(release)
        self.rank: Any = None if stages else Ranking(release)
        if stages:
            # Ray's default is cloudpickle, which is slower.
            methods = {"request_serialization": "pickle", "response_serialization": "pickle"}
            self.find, self.rank = (each.options(**methods).remote for each in stages)

    async def __call__(self, request: Request) -> JSONResponse:
        """Return the slate for one viewer."""
        asked = await request.json()
        viewer = replace(self.viewers[asked["viewer_id"]], asked_at=asked["time"])
        found = await self.find(viewer)
        viewer = replace(viewer, watched_keys=np.empty(0, np.int64))
        return JSONResponse(await self.rank(viewer, found, asked["page_size"]))


def deployed(kind: type) -> Any:
    """Return one replica of a class as a deployment, to be bound."""
    return serve.deployment(
        num_replicas=1, max_ongoing_requests=64, ray_actor_options={"num_cpus": 0}
    )(kind)


def main(release: Path, viewers: Path, *, one: bool) -> None:
    """Serve the chain until killed; its gateway answers HTTP itself."""
    logging.disable(logging.INFO)
    # For sockets, whose paths must be short; removed with this process.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        ray.init(
            num_cpus=1,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=_STORE_BYTES,
            _temp_dir=folder,
        )
        quiet = LoggingConfig(log_level="ERROR", enable_access_log=False)
        http = HTTPOptions(host="127.0.0.1", port=_PORT + 1)
        serve.start(http_options=http, logging_config=quiet)
        stages = [] if one else [deployed(each).bind(release) for each in (Candidate, Ranking)]
        chain = deployed(Gateway).bind(viewers, release, *stages)
        serve.run(chain, logging_config=quiet)
        stopped = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stopped.set())
        stopped.wait()
        ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[2]), Path(sys.argv[3]), one=sys.argv[4:] == ["one"])

"""Ray Serve: one replica that answers HTTP itself, on one event loop, no log line a request.

`RAY_SERVE_THROUGHPUT_OPTIMIZED` is Ray's own set of switches for speed: no proxy process before the
replica, its code on the loop that reads requests, and objects of the start exempt from garbage
collection. It accepts any body, so arrays come pickled.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import tempfile
import threading

from bench.peers import ranker

_PORT = int(os.environ[ranker.PORT])
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
from starlette.requests import Request  # noqa: E402
from starlette.responses import JSONResponse  # noqa: E402

_STORE_BYTES = 80_000_000
"""Shared memory for objects, of which there are none: close to Ray's minimum."""


class Ranker:
    """The ranking pipeline."""

    def __init__(self) -> None:
        """Load the release."""
        self.pipeline = ranker.load()

    async def __call__(self, request: Request) -> JSONResponse:
        """Rank on the event loop, since a hand-over to a thread would only add latency."""
        arrays = pickle.loads(await request.body())  # noqa: S301 - our own load generator's
        found = ranker.rank(self.pipeline, arrays)
        return JSONResponse({name: array.tolist() for name, array in found.items()})


def main() -> None:
    """Serve until killed."""
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
        serve.start(
            http_options=HTTPOptions(host="127.0.0.1", port=_PORT + 1), logging_config=quiet
        )
        deployed = serve.deployment(
            num_replicas=1, max_ongoing_requests=64, ray_actor_options={"num_cpus": 0}
        )(Ranker)
        serve.run(deployed.bind(), logging_config=quiet)
        stopped = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stopped.set())
        stopped.wait()
        ray.shutdown()


if __name__ == "__main__":
    main()

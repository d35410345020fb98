"""Ray Serve with its own switches for speed, and nothing that costs time for each request.

`RAY_SERVE_THROUGHPUT_OPTIMIZED` is Ray's own set of them: no proxy process before the replica that
gets requests, replicas that call each other by gRPC, user code and routers on the loop that reads
requests, and objects of the start exempt from garbage collection.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
from typing import Any

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

_STORE_BYTES = 80_000_000
"""Shared memory for objects, of which there are none: close to Ray's minimum."""


def deployed(kind: type) -> Any:
    """Return one replica of a class as a deployment, to be bound."""
    return serve.deployment(
        num_replicas=1, max_ongoing_requests=64, ray_actor_options={"num_cpus": 0}
    )(kind)


def run(application: Any) -> None:
    """Serve an application until killed; its first deployment answers HTTP itself."""
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
        serve.run(application, logging_config=quiet)
        stopped = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stopped.set())
        stopped.wait()
        ray.shutdown()

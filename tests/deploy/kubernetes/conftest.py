"""One cluster for all tests here, of the servers that `make kubernetes` builds.

Each test has a namespace of its own.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import urllib3
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.builders.chart import CHART, CHECKOUT
from tests.builders.kubernetes_cluster import ADMIN, Cluster, RefusedError
from tests.builders.waiting import wait_until
from vireo.ops.stack.ports import free_port_base

PROGRAMS = CHECKOUT / ".vireo" / "kubernetes"
OLDER = Path(__file__).with_name("older.py")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster of six nodes in three zones; skips the test if its programs aren't there."""
    if not (PROGRAMS / "kube-scheduler").exists() or shutil.which("etcd") is None:
        pytest.skip("there is no kube-apiserver; get it with: make kubernetes")
    port = free_port_base()
    cluster = Cluster(folder, f"https://127.0.0.1:{port + 2}")
    _write_files(folder)
    with ExitStack() as stack:

        def start(program: str, *flags: str) -> None:
            log = stack.enter_context((folder / f"{program}.log").open("wb"))
            path = PROGRAMS / program if program != "etcd" else Path(program)
            process = subprocess.Popen([path, *flags], stdout=log, stderr=log, cwd=folder)
            stack.callback(process.wait)
            stack.callback(process.kill)

        etcd, peer = (f"http://127.0.0.1:{port + number}" for number in (0, 1))
        start(
            "etcd",
            "--data-dir=etcd",
            "--unsafe-no-fsync",
            f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        )
        gates = "--feature-gates=EndpointSliceTerminatingCondition=true,HPAContainerMetrics=true"
        start(
            "kube-apiserver",
            gates,
            f"--etcd-servers={etcd}",
            "--bind-address=127.0.0.1",
            f"--secure-port={port + 2}",
            "--cert-dir=.",
            "--token-auth-file=tokens.csv",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://here",
            "--service-account-signing-key-file=accounts.key",
            "--service-account-key-file=accounts.key",
        )
        wait_until(lambda: _is_ready(cluster))
        kubeconfig = cluster.kubeconfig()
        common = (f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--port=0")
        start(
            "kube-controller-manager",
            gates,
            *common,
            f"--secure-port={port + 4}",
            "--service-account-private-key-file=accounts.key",
            "--root-ca-file=apiserver.crt",
            "--node-monitor-grace-period=10s",
            "--node-monitor-period=1s",
            "--node-eviction-rate=1",
            "--horizontal-pod-autoscaler-sync-period=1s",
        )
        start("kube-scheduler", *common, f"--secure-port={port + 5}")
        cluster.make_kinds()
        cluster.make_nodes()
        stop = threading.Event()
        kubelets = threading.Thread(target=cluster.run_kubelets, args=(stop,))
        kubelets.start()
        stack.callback(kubelets.join)
        stack.callback(stop.set)
        yield cluster


def _write_files(folder: Path) -> None:
    """Write what servers and Helm read."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL
    text = key.private_bytes(encoding, form, serialization.NoEncryption())
    (folder / "accounts.key").write_bytes(text)
    (folder / "tokens.csv").write_text(f"{ADMIN},admin,admin,system:masters\n")
    command = {"command": sys.executable, "args": [str(OLDER)]}
    plugin = {
        "apiVersion": "v1",
        "type": "postrenderer/v1",
        "name": "older",
        "version": "0.1.0",
        "runtime": "subprocess",
        "runtimeConfig": {"platformCommand": [command]},
    }
    (folder / "plugins" / "older").mkdir(parents=True)
    (folder / "plugins" / "older" / "plugin.yaml").write_text(yaml.safe_dump(plugin))
    shutil.copytree(CHART, folder / "chart")
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    del about["kubeVersion"]
    (folder / "chart" / "Chart.yaml").write_text(yaml.safe_dump(about))


def _is_ready(cluster: Cluster) -> bool:
    with suppress(urllib3.exceptions.HTTPError, RefusedError, OSError, ValueError):
        return cluster.authority.exists() and bool(
            cluster.request("GET", "/api/v1/namespaces/kube-node-lease")
        )
    return False

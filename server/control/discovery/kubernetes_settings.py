"""Settings of discovery in a Kubernetes cluster: `VIREO_KUBERNETES_…` variables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, field_validator
from pydantic_settings import SettingsConfigDict

from vireo.server.control.mesh import POOLS, Pool
from vireo.server.settings import EnvironmentSettings

_POOLS = {pool.cluster: pool for pool in POOLS}

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
"""A valid name of a namespace or a Service in Kubernetes, also as the value of a label."""


class KubernetesSettings(EnvironmentSettings):
    """Services of the pods, and how their EndpointSlices are watched."""

    model_config = SettingsConfigDict(env_prefix="VIREO_KUBERNETES_")

    config: Path | None = None
    """A kubeconfig file. By default the service account in a pod; elsewhere the file that
    KUBECONFIG names, or ~/.kube/config."""
    namespace: Name | None = None
    """Namespace of the Services; by default the service account's, or the kubeconfig's."""
    services: dict[str, Name] = Field(default={})
    """Names of Services, as JSON by cluster: {"candidate-canary": "next"}; by default vireo- and
    the cluster."""
    port_name: str = "grpc"
    """Name of the port that the pods of all Services serve on."""
    request_timeout: float = Field(default=5.0, gt=0)
    """Maximum seconds to wait for a response of the API."""
    watch_seconds: int = Field(default=30, ge=1)
    """Seconds that one watch lasts; a silently lost connection is detected after them."""
    max_backoff: float = Field(default=10.0, gt=0)
    """Maximum seconds between attempts while the API fails; the backoff starts lower."""

    @field_validator("services")
    @classmethod
    def _known_clusters(cls, services: dict[str, str]) -> dict[str, str]:
        unknown = services.keys() - _POOLS.keys()
        if unknown:
            raise ValueError(f"no cluster is called {min(unknown)!r}; there are {[*_POOLS]}")
        names = list(_named(services))
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two clusters can't both be Service {name!r}")
        return services

    @property
    def pools(self) -> Mapping[str, Pool]:
        """The pool of each Service, by the Service's name."""
        return dict(zip(_named(self.services), POOLS, strict=True))


def _named(services: Mapping[str, str]) -> tuple[str, ...]:
    """Return the name of each pool's Service, in the order of POOLS."""
    return tuple(services.get(cluster, f"vireo-{cluster}") for cluster in _POOLS)

"""Where pods are found in a Kubernetes cluster: `VIREO_KUBERNETES_…` variables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from server.control.mesh import POOLS, Pool
from server.errors import VireoError

_POOLS = {pool.cluster: pool for pool in POOLS}

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
"""A name that Kubernetes allows for a namespace or a Service, and for a label that holds it."""


class KubernetesSettings(BaseSettings):
    """Which Services have the pods, and how their EndpointSlices are followed."""

    model_config = SettingsConfigDict(
        env_prefix="VIREO_KUBERNETES_", frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    config: Path | None = None
    """A kubeconfig file. Without it, in a pod its service account; elsewhere what KUBECONFIG
    names, or ~/.kube/config."""
    namespace: Name | None = None
    """Namespace of the Services; by default the service account's, or the kubeconfig's."""
    services: dict[str, Name] = {}
    """Names of Services, as JSON by cluster: {"candidate-canary": "next"}; each that isn't named
    here is called vireo- and the cluster."""
    port_name: str = "grpc"
    """Name of the port on which the pods of all Services answer."""
    request_seconds: float = Field(default=5.0, gt=0)
    """Most seconds to wait for an answer of the API."""
    watch_seconds: int = Field(default=30, ge=1)
    """How long one watch lasts; a connection that is lost without a word is noticed after it."""
    retry_seconds: float = Field(default=10.0, gt=0)
    """Most seconds between attempts while the API fails; the first come sooner."""

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

    @staticmethod
    def load() -> KubernetesSettings:
        """The settings of the environment.

        Raises:
            VireoError: one is unfit; the line names its variable.
        """
        try:
            return KubernetesSettings()
        except ValidationError as error:
            problems = [
                f"VIREO_KUBERNETES_{str(problem['loc'][0]).upper()}: {problem['msg']}"
                for problem in error.errors()
            ]
            raise VireoError("bad Kubernetes settings: " + "; ".join(problems)) from error


def _named(services: Mapping[str, str]) -> tuple[str, ...]:
    """The name of each pool's Service, in the order of the pools."""
    return tuple(services.get(cluster, f"vireo-{cluster}") for cluster in _POOLS)

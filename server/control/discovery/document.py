"""The document that lists pods, in a file or as a setting."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from vireo.server.control.mesh import POOLS, Endpoint, Endpoints


def _endpoint(text: str) -> Endpoint:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or len(port) > 5 or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is not address:port")
    return Endpoint.checked(host.removeprefix("[").removesuffix("]"), int(port))


def _checked(text: str) -> str:
    _endpoint(text)
    return text


Address = Annotated[str, AfterValidator(_checked)]


class GatewayPools(BaseModel):
    """The gateways, which have a single pool."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    production: tuple[Address, ...] = ()


class InnerPools(GatewayPools):
    """The pods of a service that gateways call."""

    canary: tuple[Address, ...] = ()
    shadow: tuple[Address, ...] = ()


class EndpointsDocument(BaseModel):
    """IP address and port of every pod, by service and pool; an IPv6 address in brackets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gateway: GatewayPools = GatewayPools()
    candidate: InnerPools = InnerPools()
    ranking: InnerPools = InnerPools()

    def endpoints(self) -> Endpoints:
        """Return the endpoints of each pool."""
        return {
            pool: frozenset(map(_endpoint, getattr(getattr(self, pool.service), pool.name)))
            for pool in POOLS
        }

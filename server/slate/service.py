"""The slate pod: gateway, retrieval and ranking in one process, which serves one release to all.

The gateway's pipeline calls the same services that separate pods have, with the same messages, but
as functions. So slates are the same, and callers of the inner services find them here too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import grpc
import structlog

from vireo.server.candidate import service as candidate
from vireo.server.event_log.jetstream import open_log
from vireo.server.gateway.pods import StageFailedError
from vireo.server.gateway.query import RecommendQuery
from vireo.server.gateway.release import GatewayRelease
from vireo.server.gateway.service import slates_of
from vireo.server.gateway.settings import GatewaySettings
from vireo.server.inference.service import add_inference_service, serve_inference_http
from vireo.server.live.live import Live
from vireo.server.pod.pod import Pod
from vireo.server.pod.release_service import Part, Releases
from vireo.server.pod.run_queue import RunQueue
from vireo.server.ranking import service as ranking
from vireo.server.recommend.ranking.pipeline import RankingPipeline
from vireo.server.recommend.retrieval.pipeline import CandidatePipeline
from vireo.server.releases.layout import TAKEDOWNS
from vireo.server.rpc.admission import Admission
from vireo.server.rpc.errors import RpcError
from vireo.server.rpc.guard import ServiceLimits
from vireo.server.rpc.server import RpcServer

log = structlog.get_logger()

Request = TypeVar("Request")
Answer = TypeVar("Answer")


class SlateSettings(GatewaySettings, candidate.CandidateSettings):
    """Settings of the slate pod: those of all services in it."""


@dataclass(frozen=True)
class SlateRelease:
    """One release, as each service has it; replaced as a whole."""

    gateway: GatewayRelease
    candidate: CandidatePipeline
    ranking: RankingPipeline


@dataclass(frozen=True)
class _Context:
    """What a service of this process sees of a call, in place of gRPC's context."""

    seconds: float

    def time_remaining(self) -> float:
        """Return the seconds until the deadline."""
        return self.seconds


class InProcess(Generic[Request, Answer]):
    """A stage that is a method of a service of this process, once it is there.

    Its responses aren't checked as pods' are: no other build made them, and nothing carried them.
    """

    handler: Callable[[Request, Any], Awaitable[Answer]]
    """The method; set before the first call."""

    async def __call__(self, request: Request, _query: RecommendQuery, seconds: float) -> Answer:
        """Return the method's response; raise StageFailedError if there is none in time."""
        ends = time.monotonic() + seconds
        try:
            async with asyncio.timeout(seconds):
                answer = await self.handler(request, _Context(seconds))
            if time.monotonic() > ends:
                raise TimeoutError  # a run isn't interrupted
            return answer
        except RpcError as error:
            raise _failed(error.code, error.message) from error
        except TimeoutError as error:
            raise _failed(grpc.StatusCode.DEADLINE_EXCEEDED, "it took too long") from error
        except Exception as error:
            log.exception("call failed")
            raise _failed(grpc.StatusCode.INTERNAL, repr(error)) from error


def _failed(code: grpc.StatusCode, reason: str) -> StageFailedError:
    return StageFailedError(f"{code.name}: {reason}", code)


def slate_pod(settings: SlateSettings) -> Pod[SlateRelease]:
    """Return the slate pod. Call it in the event loop that will serve it."""
    event_log = open_log(settings.event_log)
    live = Live(event_log, settings.live, settings.cache / TAKEDOWNS) if event_log else None
    find, order = InProcess[Any, Any](), InProcess[Any, Any]()
    gateway = slates_of(settings, find, order, event_log, live)
    candidates = partial(
        candidate.build_pipeline,
        vector_cache_size=settings.viewer_vector_cache_size,
        filter_cache_bytes=settings.filter_cache_bytes,
        live=live,
    )

    def build(folder: Path) -> SlateRelease:
        ranked = ranking.build_pipeline(folder, live)
        return SlateRelease(gateway.build(folder), candidates(folder), ranked)

    def replay(release: SlateRelease) -> None:
        release.candidate.release.replay_goldens()
        release.ranking.release.replay_goldens()

    def services(
        server: RpcServer, loader: Releases[SlateRelease], queue: RunQueue, admission: Admission
    ) -> None:
        """Add the gateway's further services and the inner ones, and call those."""
        assert gateway.services is not None
        gateway.services(server, _gateway_part(loader), queue, admission)
        retrieval = Part(loader, lambda release: release.candidate)
        scoring = Part(loader, lambda release: release.ranking)
        find.handler = candidate.CandidateServicer(retrieval, queue).RetrieveCandidates
        order.handler = ranking.RankingServicer(scoring, queue).RankCandidates
        inner = Admission(queue.slots, runs_in_queue=True)  # for calls from elsewhere
        for pod, register in (
            (candidate.CANDIDATE_POD, partial(candidate.CANDIDATE_POD.register, retrieval, queue)),
            (ranking.RANKING_POD, partial(ranking.RANKING_POD.register, scoring, queue)),
        ):
            server.add(pod.service, register, ServiceLimits(inner))
        add_inference_service(
            server,
            loader,
            queue,
            inner,
            lambda release: (
                *candidate.served_models(release.candidate),
                *ranking.served_models(release.ranking),
            ),
        )

    assert gateway.work is not None
    work = gateway.work
    files = (*gateway.files, *candidate.CANDIDATE_POD.files, *ranking.RANKING_POD.files)
    return Pod(
        kind="slate",
        service=gateway.service,
        files=tuple(dict.fromkeys(files)),
        build=build,
        register=lambda loader, queue, server: gateway.register(
            _gateway_part(loader), queue, server
        ),
        max_slates=gateway.max_slates,
        inference_http=serve_inference_http,
        replay=replay,
        background=gateway.background,
        describe=gateway.describe,
        facts=lambda release: candidate.release_facts(release.candidate),
        places=gateway.places,
        work=lambda loader: work(_gateway_part(loader)),
        services=services,
        event_log=event_log,
    )


def _gateway_part(loader: Releases[SlateRelease]) -> Part[SlateRelease, GatewayRelease]:
    return Part(loader, lambda release: release.gateway)

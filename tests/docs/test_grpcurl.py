"""Every recipe of docs/grpcurl.md, of REST with tokens and of inference does as its page says."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from tests.builders.edge import running_edge
from tests.builders.nats import running_nats, settings_of
from tests.builders.releases import VECTOR_SIZE, build_release
from tests.builders.rpc import serving
from vireo.server.candidate.service import CANDIDATE_POD
from vireo.server.event_log.jetstream import JetStreamLog
from vireo.server.home import Home
from vireo.server.ranking.service import RANKING_POD
from vireo.server.security.certificates import Certificates
from vireo.server.security.folder import SecurityFolder
from vireo.server.security.tokens import TokenSigner

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

CHECKOUT = Path(__file__).parents[2]
RECIPES, WITH_TOKENS = [
    re.findall(rf"```sh\n({begin}.*?)```", (CHECKOUT / "docs" / page).read_text(), re.DOTALL)
    for page, begin in (("grpcurl.md", ""), ("rest.md", "export VIREO_CA"))
]
INVALID_ARGUMENT, PERMISSION_DENIED, UNAUTHENTICATED = 64 + 3, 64 + 7, 64 + 16
ANSWERS = {
    "8080 list": "vireo.v1.RecommendationService",
    "describe vireo.v1.RecommendationService": "rpc Recommend",
    "describe vireo.v1.RecommendRequest": "string viewer_id = 1",
    "vireo.v1.RecommendationService/Recommend": '"videoId": "v"',
    "RecommendationService/SimilarVideos": '"videoId": "v"',
    "RecommendationService/ExplainVideo": '"reason": "No source proposed it',
    "RecommendationService/BatchRecommend": '"viewerId": "3"',
    "EventService/RecordEvents": '"recorded": 1',
    "CatalogService/UpsertVideos": '"upserted": 1',
    "Health/Check": '"status": "SERVING"',
    "GetServingRelease": "tiny-1",
    "RetrieveCandidates": '"ids"',
    "RankCandidates": '"unknownCandidates": 2',
    "GetServers": "chttp2 listener",
    "--list-methods": "vireo.v1.RecommendationService/Recommend",
    "-msg-template": '"excludedKeys"',
}
"""What is printed where a recipe has these words; the last of them that it has counts."""


@dataclass(frozen=True)
class Done:
    code: int
    printed: str


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def addresses(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, str]]:
    """Where what the page has at an address is here."""
    folder = tmp_path_factory.mktemp("grpcurl")
    release = build_release(folder / "release")
    with running_nats(folder / "nats") as nats:
        log = JetStreamLog(settings_of(nats))
        async with (
            running_edge(folder, gateway_count=1, log=log) as edge,
            serving(CANDIDATE_POD, release) as (candidate, _),
            serving(RANKING_POD, release) as (ranking, _),
        ):
            yield {
                "127.0.0.1:8080": edge.address,
                "127.0.0.1:8120": f"127.0.0.1:{candidate.port}",
                "127.0.0.1:8130": f"127.0.0.1:{ranking.port}",
            }
        await log.close()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def secured(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, str]]:
    """The same of an edge with TLS that asks for tokens, and of the home with its certificates."""
    home = Home(tmp_path_factory.mktemp("secured"))
    folder = SecurityFolder(home.security)
    Certificates(folder).ensure(["127.0.0.1"])
    TokenSigner(folder).ensure()
    control = {"jwks": str(folder.jwks)}
    async with running_edge(home.root, gateway_count=1, secure=True, control=control) as edge:
        yield {
            "127.0.0.1:8080": edge.address,
            ".vireo/": f"{home.root}/",
            "vireo tokens": f"VIREO_HOME={home.root} vireo tokens",
        }


async def run(recipe: str, addresses: dict[str, str]) -> Done:
    """Run a recipe as a reader would paste it."""
    for shown, here in addresses.items():
        recipe = recipe.replace(shown, here)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-euc",
        recipe,
        cwd=CHECKOUT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PATH": path},
    )
    printed, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return Done(process.returncode, printed.decode())


@pytest.mark.parametrize("recipe", RECIPES)
async def test_each_recipe_prints_its_result(
    recipe: str, addresses: dict[str, str], secured: dict[str, str]
) -> None:
    done = await run(recipe, secured if "VIREO_TOKEN" in recipe else addresses)
    if '"pageSize": 501' in recipe:
        assert done.code == INVALID_ARGUMENT
        assert "viewer_id" in done.printed
        assert "page_size" in done.printed
        return
    assert done.code == 0, done.printed
    wanted = [answer for words, answer in ANSWERS.items() if words in recipe]
    assert wanted, "no recipe is without an answer here"
    assert wanted[-1] in done.printed


async def test_recipes_of_the_inference_protocol_answer(addresses: dict[str, str]) -> None:
    page = (CHECKOUT / "docs" / "inference-protocol.md").read_text()
    recipes = re.findall(r"```sh\n(grpcurl.*?)```", page, re.DOTALL)
    metadata, inference = [json.loads((await run(each, addresses)).printed) for each in recipes]
    assert [tensor["name"] for tensor in metadata["outputs"]] == ["viewer_vector"]
    [output] = inference["outputs"]
    assert output["shape"] == ["1", str(VECTOR_SIZE)]
    assert len(output["contents"]["fp32Contents"]) == VECTOR_SIZE


async def test_a_token_opens_rest_and_without_its_scope_it_is_refused_as_the_pages_say(
    secured: dict[str, str],
) -> None:
    [recipe] = WITH_TOKENS
    assert '"videoId":"v"' in (await run(recipe, secured)).printed
    without = recipe.replace("$VIREO_TOKEN", "")
    assert '"code":16' in (await run(without, secured)).printed
    other = recipe.replace("vireo.read", "vireo.batch")
    assert (
        "the token lacks the scope that this method requires" in (await run(other, secured)).printed
    )


@pytest.mark.parametrize(
    ("scope", "code", "said"),
    [
        ("vireo.batch", PERMISSION_DENIED, "the token lacks the scope"),
        ("", UNAUTHENTICATED, "Jwt"),
    ],
)
async def test_grpcurl_ends_with_the_codes_of_the_page_without_a_scope_or_token(
    scope: str, code: int, said: str, secured: dict[str, str]
) -> None:
    [recipe] = [each for each in RECIPES if "grpcurl -cacert" in each]
    recipe = recipe.replace("-d", "-protoset protos/gen/vireo/descriptors.binpb -d")
    recipe = recipe.replace("--scope vireo.read --scope vireo.admin", f"--scope {scope}")
    done = await run(recipe if scope else re.sub(r"\$\(.*\)", "none", recipe), secured)
    assert (done.code, said in done.printed) == (code, True), done.printed
    page = (CHECKOUT / "docs" / "grpcurl.md").read_text()
    assert re.search(
        rf"`{'PermissionDenied' if scope else 'Unauthenticated'}`.* \| {code} \|", page
    )


async def test_every_answer_here_is_of_a_recipe() -> None:
    assert len(RECIPES) == 28
    for words in ANSWERS:
        assert any(words in recipe for recipe in RECIPES), words


@pytest.mark.parametrize("version", ["grpc-v1", "grpc-v1alpha"])
@pytest.mark.parametrize("port", ["8080", "8120", "8130"])
async def test_both_versions_of_reflection_are_everywhere(
    version: str, port: str, addresses: dict[str, str]
) -> None:
    recipe = (
        f"buf curl --protocol grpc --http2-prior-knowledge --reflect-protocol {version} "
        f"--list-services http://127.0.0.1:{port}"
    )
    done = await run(recipe, addresses)
    assert done.code == 0, done.printed
    assert "grpc.reflection.v1.ServerReflection" in done.printed.split()
    assert "grpc.reflection.v1alpha.ServerReflection" in done.printed.split()

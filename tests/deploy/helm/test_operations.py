"""The pods in which an operator runs commands, and the kubectl lines of the runbooks."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from itertools import pairwise, takewhile
from pathlib import Path

import pytest

from tests.builders.chart import CHECKOUT, Document, Rendered, flags, helm_program, render, rendered
from tests.builders.commands import help_of

pytestmark = pytest.mark.integration

RUNBOOKS = sorted((CHECKOUT / "docs" / "runbooks").glob("*.md"))
PAGES = [
    *RUNBOOKS,
    *(
        CHECKOUT / "docs" / f"{name}.md"
        for name in ("kubernetes", "kubernetes-scaling", "backup", "rotation")
    ),
]
KINDS = {"deployment": "Deployment", "cronjob": "CronJob", "service": "Service"}
DATA = "vireo-operations-data"
GROUPS = {"auth", "config", "create", "rollout", "secret", "top"}
"""Commands of kubectl that have commands."""
LOCAL = re.compile(r"\.vireo/|vireo status|vireo control|127\.0\.0\.1|/proc/|dmesg|df |ps ")
"""What shows only the machine of `vireo up`."""


def claims(pod: Document) -> set[str]:
    volumes = pod["spec"]["volumes"]
    found = (each.get("persistentVolumeClaim", {}).get("claimName") for each in volumes)
    return set(filter(None, found))


def test_operators_pods_run_only_by_hand_end_by_themselves_and_leave_nothing() -> None:
    for name in ("vireo-operations", DATA):
        job = rendered("production").named("CronJob")[name]["spec"]
        assert job["suspend"] is True
        assert job["jobTemplate"]["spec"]["backoffLimit"] == 0
        assert job["jobTemplate"]["spec"]["ttlSecondsAfterFinished"] <= 600
        [container] = job["jobTemplate"]["spec"]["template"]["spec"]["containers"]
        assert container["command"] == ["sleep", "14400"]


def test_a_rollback_waits_for_no_job_and_for_no_large_machine() -> None:
    pods = rendered("production").pods()
    assert claims(pods["vireo-operations"]) == {"vireo-features"}
    assert claims(pods[DATA]) == claims(pods["vireo-nightly"]) > {"vireo-home"}
    [own], [data] = (pods[name]["spec"]["containers"] for name in ("vireo-operations", DATA))
    assert own["resources"]["requests"] == {"cpu": "100m", "memory": "512Mi"}
    assert pods["vireo-operations"]["spec"]["priorityClassName"] == "serving"
    [step] = pods["vireo-backup"]["spec"]["containers"]
    alike = ("image", "securityContext", "envFrom", "volumeMounts")
    assert {key: data[key] for key in alike} == {key: step[key] for key in alike}
    [*_, training] = pods["vireo-nightly"]["spec"]["containers"]
    assert data["resources"] == training["resources"], "features are built after a restore"


def test_commands_find_what_jobs_find_and_doctor_its_prometheus() -> None:
    def variables(name: str) -> dict[str, Document]:
        [*_, container] = rendered("production").pods()[name]["spec"]["containers"]
        return {each["name"]: each for each in container["env"]}

    jobs = variables("vireo-nightly")
    for name in ("vireo-operations", DATA):
        found = variables(name)
        assert {key: found[key] for key in jobs} == jobs
        added = {key: found[key]["value"] for key in found.keys() - jobs.keys()}
        assert added == {
            "VIREO_FEATURES": "/home/vireo/features",
            "VIREO_PROMETHEUS_URL": "http://prometheus.monitoring:9090",
            "VIREO_INSTALLATION": "shop/vireo",
        }
        assert all(each in help_of("doctor") for each in added)
    given = flags('operations.prometheus="http://p:9090"', 'monitoring.installation="eu"')
    [own] = render(*given).pods()["vireo-operations"]["spec"]["containers"]
    assert {"name": "VIREO_INSTALLATION", "value": "eu"} in own["env"]


def commands(page: Path, program: str = "kubectl") -> Iterator[list[str]]:
    """The words of each command of a page that calls a program, of its blocks and of its text."""
    text = page.read_text()
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S):
        for line in re.sub(r"\\\n|\$\([^)]*\)", "", block).splitlines():
            for part in re.split(r"\s[|&](?:\s|$)", line):
                if part.strip().startswith(f"{program} "):
                    yield shlex.split(part, comments=True)
    for inline in re.findall(rf"`({program} [^`]+)`", text):
        yield shlex.split(inline)


def unknown(chart: Rendered, words: list[str]) -> Iterator[str]:
    """What a kubectl command names and the chart doesn't have."""
    own = words[: words.index("--")] if "--" in words else words
    labels = {pair for pod in chart.pods().values() for pair in pod["metadata"]["labels"].items()}
    containers = {container["name"] for _, container in chart.containers()}
    for before, word in zip(["", *own], own, strict=False):
        kind, _, name = word.removeprefix("--from=").partition("/")
        if before in KINDS and not word.startswith("-"):
            kind, name = before, word
        label = before == "-l" and " in " not in word
        container = before == "-c" and word != "STEP"
        if (
            (kind in KINDS and name and name not in chart.named(KINDS[kind]))
            or (label and tuple(word.split("=")) not in labels)
            or (container and word not in containers)
        ):
            yield word


def test_kubectl_lines_name_what_the_chart_makes() -> None:
    chart = rendered("production")
    found = [(page.stem, words) for page in PAGES for words in commands(page)]
    assert len(found) > 70
    wrong = [(page, each) for page, words in found for each in unknown(chart, words)]
    assert wrong == []
    for line in (
        "logs deployment/gateway",
        "get cronjob nightly",
        "logs -l app=x",
        "logs POD -c x",
    ):
        assert list(unknown(chart, shlex.split(line))), "the check above finds nothing"


@cache
def options(*command: str) -> set[str]:
    """The options of a command of helm or kubectl, as its help has them."""
    program = str(Path(helm_program()).with_name(command[0]))
    told = [[*command[1:], "--help"], ["options"] if command[0] == "kubectl" else ["--help"]]
    texts = (subprocess.check_output([program, *each], text=True) for each in told)
    return {each for text in texts for each in re.findall(r"(?<!\S)--?[a-z][a-z-]*", text)}


@pytest.mark.parametrize("program", ["helm", "kubectl"])
def test_commands_of_a_cluster_have_only_options_that_there_are(program: str) -> None:
    pages = sorted((CHECKOUT / "docs").rglob("*.md"))
    found = [(page.stem, words) for page in pages for words in commands(page, program)]
    assert len(found) > 8
    for page, words in found:
        own = words[1 : words.index("--")] if "--" in words else words[1:]
        own = own[2:] if own[0] == "-n" else own
        if own[0] == "diff":  # a plugin
            continue
        given = {word.partition("=")[0] for word in own if re.match("--[a-z]", word)}
        given |= {
            f"-{letter}" for word in own if re.fullmatch("-[a-z]+", word) for letter in word[1:]
        }
        assert given <= options(program, *own[: 1 + len([*takewhile(GROUPS.__contains__, own)])]), (
            page,
            words,
        )
        for before, value in pairwise(own):
            assert before != "--set" or render(before, value).documents, (page, words)


def test_what_only_one_machine_shows_has_its_kubectl_line_beside_it() -> None:
    alone = []
    for page in RUNBOOKS:
        blocks = "".join(re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.M | re.S))
        if LOCAL.search(blocks) and "kubectl" not in blocks:
            alone.append(page.stem)
    assert alone == []

"""That jobs run commands that there are, on the folders that pods read."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from clients.cli.__main__ import app
from tests.builders.chart import Document, rendered

pytestmark = pytest.mark.integration


def steps(name: str, values: str = "production") -> list[Document]:
    spec = rendered(values).pods()[name]["spec"]
    return [*spec.get("initContainers", ()), *spec["containers"]]


def help_of(command: str) -> str:
    """What `vireo COMMAND --help` prints."""
    done = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("vireo-training", ["data import", "train", "release publish"]),
        ("vireo-features", ["data import", "features build"]),
    ],
)
def test_each_step_is_a_command_of_vireo(name: str, commands: list[str]) -> None:
    for step, command in zip(steps(name), commands, strict=True):
        given = step["command"]
        words = command.split()
        assert given[: len(words) + 1] == ["vireo", *words]
        options = {each.partition("=")[0] for each in given if each.startswith("--")}
        assert all(each in help_of(command) for each in options)


def test_what_jobs_build_lies_where_gateways_and_consumers_read_it() -> None:
    chart = rendered("production")
    claims = {
        name: {
            volume["name"]: volume["persistentVolumeClaim"]["claimName"]
            for volume in pod["spec"]["volumes"]
            if "persistentVolumeClaim" in volume
        }
        for name, pod in chart.pods().items()
    }
    for name in ("vireo-gateway", "vireo-consumer", "vireo-training", "vireo-features"):
        assert claims[name]["features"] == "vireo-features"
    made = chart.named("PersistentVolumeClaim")
    assert made["vireo-features"]["spec"]["accessModes"] == ["ReadWriteMany"]
    assert made.keys() == {"vireo-features", "vireo-home"}
    for claim in made.values():
        assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    for step in steps("vireo-training"):
        mounts = {each["name"]: each["mountPath"] for each in step["volumeMounts"]}
        home = next(each["value"] for each in step["env"] if each["name"] == "VIREO_HOME")
        assert (mounts["home"], mounts["features"]) == (home, f"{home}/features")


def test_two_runs_of_a_job_are_never_at_once() -> None:
    for job in rendered("production").named("CronJob").values():
        assert job["spec"]["concurrencyPolicy"] == "Forbid"
        assert job["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"] > 0


def test_a_release_may_go_to_the_canary_first() -> None:
    [publish] = [each["command"] for each in steps("vireo-training", "canary")[-1:]]
    assert publish[-2:] == ["--channel", "canary"]


def test_without_a_data_set_there_are_no_jobs() -> None:
    assert not rendered("default").named("CronJob")

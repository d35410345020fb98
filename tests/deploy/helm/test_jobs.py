"""That the nightly job runs commands that there are, on the folders that pods read."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from tests.builders.chart import CHART, CHECKOUT, Document, flags, render, rendered
from tests.builders.commands import help_of
from vireo.server.errors import VireoError
from vireo.server.releases.promotion import PromotionRefusedError

pytestmark = pytest.mark.integration


def steps(values: str = "production") -> list[Document]:
    spec = rendered(values).pods()["vireo-nightly"]["spec"]
    return [*spec.get("initContainers", ()), *spec["containers"]]


def test_each_step_is_a_command_of_vireo_and_begins_after_the_one_before() -> None:
    commands = ["data import", "features build", "train", "release publish", "release gc"]
    for step, command in zip(steps(), commands, strict=True):
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
    for name in ("vireo-gateway", "vireo-consumer-0", "vireo-nightly"):
        assert claims[name]["features"] == "vireo-features"
    made = chart.named("PersistentVolumeClaim")
    assert made["vireo-features"]["spec"]["accessModes"] == ["ReadWriteMany"]
    assert made.keys() == {"vireo-features", "vireo-home"}
    for claim in made.values():
        assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    for step in steps():
        mounts = {each["name"]: each["mountPath"] for each in step["volumeMounts"]}
        home = next(each["value"] for each in step["env"] if each["name"] == "VIREO_HOME")
        assert (mounts["home"], mounts["features"]) == (home, f"{home}/features")


def test_two_runs_are_never_at_once_not_even_one_by_hand() -> None:
    job = rendered("production").named("CronJob")["vireo-nightly"]
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    assert job["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"] > 0
    home = rendered("production").named("PersistentVolumeClaim")["vireo-home"]
    assert home["spec"]["accessModes"] == ["ReadWriteOncePod"], "a second pod would be let in"


def test_a_job_is_not_repeated_once_the_gate_has_refused_its_release() -> None:
    job = rendered("production").named("CronJob")["vireo-nightly"]["spec"]["jobTemplate"]["spec"]
    assert job["backoffLimit"] == 1, "a training that was interrupted goes on"
    assert job["template"]["spec"]["restartPolicy"] == "Never", "otherwise it has no such policy"
    disruption, rule = job["podFailurePolicy"]["rules"]
    assert disruption == {
        "action": "Ignore",
        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
    }, "a drain uses up no attempt"
    codes = {"operator": "In", "values": [PromotionRefusedError.exit_code]}
    assert rule == {"action": "FailJob", "onExitCodes": codes}
    assert PromotionRefusedError.exit_code not in (VireoError.exit_code, 0, 2, 130, 137)


def test_steps_may_be_left_out_and_keep_their_order() -> None:
    settings = ('jobs.steps=["collect", "features"]', 'jobs.dataset="site"', "jobs.enabled=true")
    spec = render(*flags(*settings)).pods()["vireo-nightly"]["spec"]
    names = [each["name"] for each in [*spec.get("initContainers", ()), *spec["containers"]]]
    assert names == ["features", "collect"]


def test_backups_are_made_where_the_data_sets_are_with_keys_of_their_own() -> None:
    settings = ('jobs.backup.schedule="30 * * * *"', 'jobs.dataset="site"', "jobs.enabled=true")
    chart = render(*flags(*settings))
    jobs = chart.named("CronJob")
    assert {
        name: each["spec"]["schedule"] for name, each in jobs.items() if "operations" not in name
    } == {
        "vireo-nightly": "0 2 * * *",
        "vireo-backup": "30 * * * *",
    }
    pods = chart.pods()
    [step] = pods["vireo-backup"]["spec"]["containers"]
    assert step["command"] == ["vireo", "backup"]
    assert step["envFrom"][-1] == {"secretRef": {"name": "vireo-backup"}}
    nightly = pods["vireo-nightly"]
    assert pods["vireo-backup"]["metadata"] == nightly["metadata"], "policies know it by labels"
    assert pods["vireo-backup"]["spec"]["volumes"] == nightly["spec"]["volumes"]
    assert "initContainers" not in pods["vireo-backup"]["spec"]
    [own] = pods["vireo-operations"]["spec"]["containers"]
    assert step["resources"] == own["resources"], "it needs no training's memory"
    [by_hand] = pods["vireo-operations-data"]["spec"]["containers"]
    assert by_hand["envFrom"] == step["envFrom"]
    # Without the keys, but so that the control plane misses a first backup that fails.
    [control] = pods["vireo-control"]["spec"]["containers"]
    [told] = [each for each in control["env"] if each["name"].startswith("VIREO_BACKUP")]
    source = told["valueFrom"]["secretKeyRef"]
    assert (source["name"], source["key"]) == ("vireo-backup", "VIREO_BACKUP_S3_ENDPOINT")


def test_only_jobs_have_keys_that_write_releases() -> None:
    chart = rendered("production")
    for name, container in chart.containers():
        secrets = [each["secretRef"]["name"] for each in container.get("envFrom", ())]
        writes = ["vireo-s3", "vireo-s3-writer"] if name in chart.named("CronJob") else ["vireo-s3"]
        if name in ("vireo-backup", "vireo-operations-data"):
            writes.append("vireo-backup")
        assert secrets == ([] if container["command"] == ["envoy"] else writes), name
    accounts = {pod["spec"]["serviceAccountName"] for pod in chart.pods().values()}
    assert accounts == {f"vireo-{name}" for name in ("pods", "edge", "control", "jobs")}
    role = {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/reader"}
    other = render("--set-json", f"serviceAccounts.pods={json.dumps(role)}").named("ServiceAccount")
    assert {name for name, each in other.items() if "annotations" in each["metadata"]} == {
        "vireo-pods"
    }


def test_the_documented_memory_of_a_job_is_that_of_the_measured_rows() -> None:
    rows = map(
        json.loads, (CHECKOUT / "bench" / "report" / "memory.jsonl").read_text().splitlines()
    )
    peaks = {each["measure"]: each["figure"] for each in rows}
    page = (CHECKOUT / "docs" / "kubernetes.md").read_text()
    [(fixed, slope)] = re.findall(r"`([\d.]+) GB \+ ([\d.]+) GB · million watches`", page)
    for step in ("import", "features", "training"):
        for millions in (1, 10):
            peak = peaks[f"{step}, {millions},000,000 events: peak memory in GB"]
            needed = float(fixed) + float(slope) * millions
            assert peak <= needed, step
            if step == "training":
                assert needed < 1.5 * peak, "the largest step decides"
    files = [CHART / "values.yaml", CHART.parent / "values" / "production.yaml"]
    for file in files:
        text = file.read_text()
        [millions] = map(int, re.findall(r"for (\d+) million watches", text))
        limit = yaml.safe_load(text)["jobs"]["resources"]["limits"]["memory"]
        bytes_ = int(limit.removesuffix("Gi")) * 2**30
        assert bytes_ >= (float(fixed) + float(slope) * millions) * 1e9, file


def test_a_release_may_go_to_the_canary_first() -> None:
    [publish] = [each["command"] for each in steps("canary") if each["name"] == "publish"]
    assert publish[-2:] == ["--channel", "canary"]


def test_without_a_data_set_there_are_no_jobs() -> None:
    assert rendered("default").named("CronJob").keys() == {"vireo-operations"}

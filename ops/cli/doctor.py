"""`vireo doctor`: asks every part of a deployment, and says what is wrong and what to do."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from vireo.ops.cli.output import AsJson, CaOption, TokenOption, only_warnings, print_json
from vireo.server.errors import VireoError

if TYPE_CHECKING:
    from vireo.ops.doctor.conditions import Finding
    from vireo.ops.doctor.deployment import Deployment
    from vireo.ops.doctor.facts import Facts
    from vireo.server.rpc.tls import TlsFiles

_STYLES = {"failing": "bold red", "risk": "yellow", "note": "dim"}
_ANSWERS_SECONDS = 7.0
"""Seconds beyond the window in which every probe should have ended."""

EdgeOption = Annotated[str, typer.Option("--edge", help="host:port of the edge.")]
MetricsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--metrics",
        help="URL of a process's metrics, or NAME=URL; repeat it for each process.",
    ),
]
PrometheusOption = Annotated[
    str,
    typer.Option(
        envvar="VIREO_PROMETHEUS_URL",
        show_envvar=True,
        help="URL of a Prometheus that reads the metrics of all processes and Envoys.",
    ),
]
InstallationOption = Annotated[
    str,
    typer.Option(
        envvar="VIREO_INSTALLATION",
        show_envvar=True,
        help="Label `installation` of its targets; if it reads several deployments.",
    ),
]


def doctor(
    edge: EdgeOption = "",
    control: Annotated[str, typer.Option(help="host:port of the control plane.")] = "",
    envoy: Annotated[str, typer.Option(help="host:port of Envoy's admin interface.")] = "",
    metrics: MetricsOption = None,
    prometheus: PrometheusOption = "",
    installation: InstallationOption = "",
    certificate: Annotated[
        Path | None, typer.Option(help="Client certificate for mutual TLS with --control, PEM.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Key of the certificate, PEM.")] = None,
    ca: CaOption = None,
    token: TokenOption = "",
    seconds: Annotated[
        float, typer.Option(min=0.2, max=60, help="How long to watch what processes count.")
    ] = 2.0,
    as_json: AsJson = False,
) -> None:
    """Find out what is wrong, the likeliest cause first, and what to do about it.

    Without options it asks the stack that runs on this home. For a deployment elsewhere name its
    parts: --edge, --control, --envoy, and --metrics of each process or --prometheus; S3, log and
    features are those of VIREO_S3_…, VIREO_NATS_URL and VIREO_FEATURES.

    It ends with 0 if nothing fails or is about to, 1 if something does, 2 if nothing could be
    asked.
    """
    only_warnings()
    from vireo.ops.doctor.deployment import ask_all
    from vireo.ops.doctor.diagnose import diagnose
    from vireo.ops.doctor.parts import probes_of

    tls = _client_files(certificate, key, ca)
    try:
        deployment = deployment_of(
            edge, control, envoy, metrics or [], prometheus, installation, tls, ca, token, seconds
        )
    except VireoError as error:
        _refuse(str(error), as_json=as_json)
    _quiet_libraries()
    facts = ask_all([*probes_of(deployment)], seconds + _ANSWERS_SECONDS)
    findings = diagnose(facts)
    if as_json:
        print_json(document(facts, findings))
    else:
        print_findings(facts, findings, Console(highlight=False))
    if not facts.answered():
        raise typer.Exit(2)
    if any(each.level != "note" for each in findings):
        raise typer.Exit(1)


def deployment_of(
    edge: str,
    control: str,
    envoy: str,
    metrics: list[str],
    prometheus: str,
    installation: str = "",
    tls: TlsFiles | None = None,
    ca: Path | None = None,
    token: str = "",
    seconds: float = 2.0,
) -> Deployment:
    """Return the deployment whose parts are named; the stack of this home if none is.

    Raises:
        VireoError: none is named, and no stack runs.
        BadParameter: an address isn't one.
    """
    from vireo.ops.doctor.deployment import Deployment
    from vireo.ops.doctor.parts import external_s3
    from vireo.ops.edge import Edge
    from vireo.ops.stack.nats import external_log

    if not any((edge, control, envoy, metrics, prometheus)):
        return _stack(seconds)
    for option, address in (("--edge", edge), ("--control", control), ("--envoy", envoy)):
        _check_address(option, address)
    features = os.environ.get("VIREO_FEATURES")
    return Deployment(
        edge=Edge(edge, ca, token) if edge else None,
        control=control,
        tls=tls,
        envoy=envoy,
        metrics=dict(map(_page, metrics)),
        prometheus=_url("--prometheus", prometheus),
        installation=installation,
        s3=external_s3(),
        log=external_log(),
        features=Path(features) if features else None,
        window=seconds,
    )


def _stack(seconds: float) -> Deployment:
    from vireo.ops.doctor.parts import stack_deployment
    from vireo.ops.stack.state import running_stack
    from vireo.server.home import Home

    state = running_stack(Home.current())
    if state is None:
        raise VireoError(
            f"no stack runs on {Home.current().root}: start it with vireo up, set VIREO_HOME to "
            "the home of the one you mean, or name a deployment with --edge, --control and "
            "--metrics, or --prometheus"
        )
    return stack_deployment(state, seconds)


def _client_files(certificate: Path | None, key: Path | None, ca: Path | None) -> TlsFiles | None:
    from vireo.server.rpc.tls import TlsFiles

    if certificate and key and ca:
        return TlsFiles(certificate, key, ca)
    if certificate or key:
        raise typer.BadParameter("--certificate, --key and --ca go together")
    return None


def _check_address(option: str, address: str) -> None:
    from vireo.ops.doctor.deployment import split

    try:
        if address:
            split(address)
    except ValueError as error:
        raise typer.BadParameter(f"{address!r} isn't host:port", param_hint=option) from error


def _page(text: str) -> tuple[str, str]:
    """Return name and URL of NAME=URL, or of a URL."""
    name, equals, url = text.partition("=")
    if not equals or "://" in name:
        name, url = text.removeprefix("http://").removesuffix("/metrics"), text
    return name, _url("--metrics", url)


def _url(option: str, text: str) -> str:
    if text and not text.startswith(("http://", "https://")):
        raise typer.BadParameter(f"{text!r} isn't a URL, http://host:port/…", param_hint=option)
    return text


def _refuse(problem: str, *, as_json: bool) -> None:
    """Say why nothing could be asked, and end with 2."""
    if as_json:
        print_json({"healthy": None, "findings": [], "unasked": [{"what": "", "why": problem}]})
    else:
        errors = Console(stderr=True, highlight=False)
        errors.print(Text.assemble(("error: ", "bold red"), problem), soft_wrap=True)
    raise typer.Exit(2)


def _quiet_libraries() -> None:
    """Leave it to findings to say what fails: gRPC's and others' own lines would hide them."""
    import logging

    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    logging.disable(logging.CRITICAL)


def document(facts: Facts, findings: list[Finding]) -> dict[str, object]:
    """Return what was found as JSON has it."""
    healthy = None if not facts.answered() else all(each.level == "note" for each in findings)
    return {
        "healthy": healthy,
        "findings": [{**asdict(each), "runbook": each.runbook} for each in findings],
        "unasked": [asdict(each) for each in facts.unasked],
    }


def print_findings(facts: Facts, findings: list[Finding], console: Console) -> None:
    """Print findings in order, then what couldn't be asked."""
    if not facts.answered():
        console.print("nothing could be asked", style="bold red")
    elif not findings:
        console.print(Text.assemble(("healthy", "bold green"), f": {_asked(facts)}"))
    for number, each in enumerate(findings, start=1):
        title = f": {_printable(each.title)}"  # it may name what other machines say
        line = Text.assemble(f"{number}. ", (each.level, _STYLES[each.level]), title)
        console.print(line, soft_wrap=True)
        if each.follows_from:
            console.print(f"   follows from: {each.follows_from}", soft_wrap=True)
        for evidence in each.evidence:
            console.print(Text(f"   - {_printable(evidence)}"), soft_wrap=True)
        console.print(Text(f"   do: {each.advice}"), soft_wrap=True)
        if each.runbook:
            console.print(Text(f"   see: {each.runbook}"), soft_wrap=True)
    if facts.unasked:
        console.print("not asked:")
    for unasked in facts.unasked:
        line = Text(f"  {unasked.what}: {_printable(unasked.why)}")
        console.print(line, soft_wrap=True, style="dim")


def _asked(facts: Facts) -> str:
    """Return what was asked, for the case that all is well."""
    names = [each.name for each in facts.parts]
    counts = [
        (len(facts.processes), "processes"),
        (len(facts.pods), "pods"),
        (len(facts.pages), "pages of metrics"),
        (len(facts.certificates), "certificates"),
        (len(facts.disks), "folders"),
    ]
    return ", ".join(names + [f"{count} {what}" for count, what in counts if count])


def _printable(text: str) -> str:
    """Return one line without characters that a terminal would obey."""
    return "".join(each if each.isprintable() else " " for each in text)

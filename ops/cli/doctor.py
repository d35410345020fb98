"""`vireo doctor`: asks every part of a deployment, and says what is wrong and what to do."""

from __future__ import annotations

import logging
import os
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from vireo.ops.cli.options import (
    CaOption,
    CertificateOption,
    ControlOption,
    JsonOption,
    KeyOption,
    TargetOption,
    TokenOption,
)
from vireo.ops.cli.output import document_of, print_json, printable
from vireo.ops.doctor.conditions import Finding
from vireo.ops.doctor.deployment import Deployment, ask_all, split
from vireo.ops.doctor.diagnose import diagnose
from vireo.ops.doctor.facts import Facts, Unasked
from vireo.server.errors import NoAnswerError, UsageError, VireoError

_STYLES = {"failing": "bold red", "risk": "yellow", "note": "dim"}
_ANSWERS_SECONDS = 7.0
"""Seconds beyond the window in which every probe should have ended."""


def _address(text: str) -> str:
    try:
        if text:
            split(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} isn't host:port") from error
    return text


def _url(text: str) -> str:
    if text and not text.startswith(("http://", "https://")):
        raise typer.BadParameter(f"{text!r} isn't a URL, http://host:port/…")
    return text


def _page(text: str) -> tuple[str, str]:
    """Return name and URL of NAME=URL, or of a URL."""
    name, equals, url = text.partition("=")
    if not equals or "://" in name:
        name, url = text.removeprefix("http://").removesuffix("/metrics"), text
    return name, _url(url)


def _part(what: str) -> Any:
    return typer.Option(help=f"host:port of {what}.", parser=_address, metavar="HOST:PORT")


MetricsOption = Annotated[
    list[Any] | None,
    typer.Option(
        "--metrics",
        parser=_page,
        metavar="URL",
        help="URL of a process's metrics, or NAME=URL; repeat it for each process.",
    ),
]
PrometheusOption = Annotated[
    str,
    typer.Option(
        envvar="VIREO_PROMETHEUS_URL",
        show_envvar=True,
        parser=_url,
        metavar="URL",
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
    target: TargetOption = "",
    control: ControlOption = "",
    envoy: Annotated[str, _part("Envoy's admin interface")] = "",
    metrics: MetricsOption = None,
    prometheus: PrometheusOption = "",
    installation: InstallationOption = "",
    certificate: CertificateOption = None,
    key: KeyOption = None,
    ca: CaOption = None,
    token: TokenOption = "",
    seconds: Annotated[
        float, typer.Option(min=0.2, max=60, help="How long to watch what processes count.")
    ] = 2.0,
    as_json: JsonOption = False,
) -> None:
    """Find out what is wrong, the likeliest cause first, and what to do about it.

    Without options it asks the stack that runs on this home. For a deployment elsewhere name its
    parts: --target, --control, --envoy, and --metrics of each process or --prometheus; S3, log and
    features are those of VIREO_S3_…, VIREO_NATS_URL and VIREO_FEATURES.

    It ends with 0 if nothing fails or is about to, 1 if something does, 3 if nothing could be
    asked.

    vireo doctor
    """
    # It is for findings to say what fails: gRPC's own lines, from its import on, would hide them.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from vireo.ops.doctor.parts import completed, probes_of
    from vireo.ops.edge import Edge, client_files

    try:
        named = Deployment(
            edge=Edge(target, ca, token) if _address(target) else None,
            control=_address(control),
            tls=client_files(certificate, key, ca),
            envoy=envoy,
            metrics=dict(metrics or ()),
            prometheus=prometheus,
            installation=installation,
            window=seconds,
        )
        deployment = completed(named)
    except UsageError:
        raise
    except VireoError as error:
        if not as_json:
            raise NoAnswerError(str(error)) from error
        print_json(document(Facts(unasked=(Unasked("", str(error)),)), []))
        raise typer.Exit(NoAnswerError.exit_code) from error
    logging.disable(logging.CRITICAL)
    facts = ask_all([*probes_of(deployment)], seconds + _ANSWERS_SECONDS)
    findings = diagnose(facts)
    if as_json:
        print_json(document(facts, findings))
    else:
        print_findings(facts, findings, Console(highlight=False))
    if not facts.answered():
        raise typer.Exit(NoAnswerError.exit_code)
    if any(each.level != "note" for each in findings):
        raise typer.Exit(1)


def document(facts: Facts, findings: list[Finding]) -> dict[str, object]:
    """Return what was found as JSON has it."""
    healthy = None if not facts.answered() else all(each.level == "note" for each in findings)
    return {
        "healthy": healthy,
        "findings": [{**document_of(each), "runbook": each.runbook} for each in findings],
        "unasked": document_of(facts.unasked),
    }


def print_findings(facts: Facts, findings: list[Finding], console: Console) -> None:
    """Print findings in order, then what couldn't be asked."""
    if not facts.answered():
        console.print("nothing could be asked", style="bold red")
    elif not findings:
        console.print(Text.assemble(("healthy", "bold green"), f": {_asked(facts)}"))
    for number, each in enumerate(findings, start=1):
        title = f": {printable(each.title)}"  # it may name what other machines say
        lines = [Text.assemble(f"{number}. ", (each.level, _STYLES[each.level]), title)]
        lines += [Text(f"   follows from: {each.follows_from}")] * bool(each.follows_from)
        lines += [Text(f"   - {printable(evidence)}") for evidence in each.evidence]
        lines += [Text(f"   do: {each.advice}")]
        lines += [Text(f"   see: {each.runbook}")] * bool(each.runbook)
        console.print(*lines, sep="\n", soft_wrap=True)
    if facts.unasked:
        console.print("not asked:")
    for unasked in facts.unasked:
        line = Text(f"  {unasked.what}: {printable(unasked.why)}")
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

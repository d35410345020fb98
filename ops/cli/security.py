"""`vireo certificates` and `vireo tokens`: credentials of a secured stack."""

from __future__ import annotations

from typing import Annotated

import typer

from vireo.ops.cli.options import JsonOption
from vireo.ops.cli.output import print_result
from vireo.ops.stack.envoy import write_envoy_secrets
from vireo.ops.stack.settings import StackSettings
from vireo.server.errors import VireoError
from vireo.server.home import Home
from vireo.server.security.certificates import DAYS, Certificates
from vireo.server.security.folder import SecurityFolder
from vireo.server.security.tokens import TokenSigner

certificates = typer.Typer(no_args_is_help=True)
tokens = typer.Typer(no_args_is_help=True)


@certificates.command("replace-authority")
def replace_authority(as_json: JsonOption = False) -> None:
    """Make another CA, trusted beside the one in use; then `make` twice finishes the change.

    vireo certificates replace-authority
    """
    folder = SecurityFolder(Home.current().security)
    Certificates(folder).replace_authority()
    text = f"callers and processes trust {folder.authority}, which has both authorities"
    print_result({"authority": folder.authority}, text, as_json)


@certificates.command("make")
def make_certificates(
    host: Annotated[
        list[str] | None,
        typer.Option(help="Host name or address of the edge for callers, besides localhost."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make certificates for `vireo up --secure`, or renew them while it runs.

    Each kind of process gets a certificate signed by this home's CA. Running processes reload
    renewed ones. Keys are readable only by their owner.

    vireo certificates make --host rec.example.com
    """
    folder = SecurityFolder(Home.current().security)
    try:
        Certificates(folder).renew(host or [])
    except ValueError as error:
        raise VireoError(f"invalid host name or address: {error}") from error
    TokenSigner(folder).ensure()
    write_envoy_secrets(folder)
    made = {"certificates": folder.current, "authority": folder.authority, "days": DAYS}
    text = f"made for {DAYS} days: {folder.current}\ncallers trust {folder.authority}"
    print_result(made, text, as_json)


@tokens.command("make")
def make_token(
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="Scope of the caller: vireo.read, vireo.batch, vireo.explain, vireo.events, "
            "vireo.catalog, vireo.inference, vireo.admin."
        ),
    ] = None,
    subject: Annotated[
        str, typer.Option(help="Identity of the caller; the edge counts calls by it.")
    ] = "local",
    viewer: Annotated[
        str, typer.Option(help="The only viewer that the token is for; any if absent.")
    ] = "",
    minutes: Annotated[float, typer.Option(min=0, help="Lifetime in minutes.")] = 60.0,
    issuer: Annotated[str, typer.Option(help="The stack's VIREO_JWT_ISSUER if absent.")] = "",
    audience: Annotated[str, typer.Option(help="The stack's VIREO_JWT_AUDIENCE if absent.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Print a token for this home's secured stack.

    export VIREO_TOKEN=$(vireo tokens make --scope vireo.read)
    """
    settings = StackSettings.load()
    made = TokenSigner(settings.security).token(
        subject=subject,
        scopes=scope or ["vireo.read"],
        issuer=issuer or settings.jwt_issuer,
        audience=audience or settings.jwt_audience,
        seconds=60 * minutes,
        more={settings.viewer_claim: viewer} if viewer else None,
    )
    print_result({"token": made}, made, as_json)

"""`avatar-studio aws deploy`, `status` and `destroy`: the moderated picture API, up and down."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from diffusion.bases import registry
from studio.cli.console import FAILED, Json, reporting
from studio.cloud import bundle
from studio.cloud.cloudformation import Stacks, default_network
from studio.errors import UserError
from studio.settings import read_settings

Name = Annotated[str, typer.Option("--name", help="The stack; begins all names in it.")]
DEFAULT = "avatar-studio"


def deploy(
    name: Name = DEFAULT,
    base: Annotated[str, typer.Option(help="Base that the endpoint's image holds.")] = "starter-3",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A parameter of deploy/api.yaml: Name=value.")
    ] = None,
    vpc: Annotated[str, typer.Option(help="Network; else the account's default one.")] = "",
    subnets: Annotated[str, typer.Option(help="Its subnets, two or more, by comma.")] = "",
    route_tables: Annotated[str, typer.Option(help="Their route tables, by comma.")] = "",
    code: Annotated[
        Path | None, typer.Option("--zip", help="Function code that was built before.")
    ] = None,
    template: Annotated[
        Path | None, typer.Option(help="Own template, in place of deploy/api.yaml.")
    ] = None,
    python: Annotated[str, typer.Option(help="Python of the function.")] = "3.12",
    machine: Annotated[str, typer.Option(help="x86_64 or arm64.")] = "x86_64",
    as_json: Json = False,
) -> None:
    """Bring the API up at AWS, or to these options. It costs money until it is destroyed."""
    with reporting(as_json) as output, tempfile.TemporaryDirectory() as scratch:
        settings = read_settings()
        given = _parameters(set_ or [])
        bases = registry(settings.home, settings.bases_file)
        given.setdefault("EndpointBase", f"{bases.get(base).id}@{bases.sha256(base)}")
        if vpc:
            network = (vpc, subnets.split(","), route_tables.split(",") if route_tables else [])
        else:
            network = default_network(settings)
        given |= {"Vpc": network[0], "Subnets": ",".join(network[1])}
        given |= {"RouteTables": ",".join(network[2])}
        given |= {"Runtime": f"python{python}", "Architecture": machine}
        if code is None:
            output.words("Fetching what the function needs.")
            wheels = "aarch64" if machine == "arm64" else machine
            code = bundle.build(Path(scratch), python=python, machine=wheels)
        for path in filter(None, (code, template)):
            if not path.is_file():
                raise UserError(f"There is no file {path}.", "Leave it out to take the usual one.")
        stacks = Stacks(settings, template=template)
        state = stacks.deploy(name, code, given, output.words)
        for key, value in sorted(state.outputs.items()):
            output.words(f"{key}: {value}")
        output.result({"stack": name, "state": state.state, "outputs": state.outputs})


def status(name: Name = DEFAULT, as_json: Json = False) -> None:
    """Say whether the API is up, where, and what failed."""
    with reporting(as_json) as output:
        state = Stacks(read_settings()).state(name)
        output.words(f"{name} is {state.state.lower().replace('_', ' ')}")
        for reason in state.reasons:
            output.words(f"  {reason}")
        for key, value in sorted(state.outputs.items()):
            output.words(f"{key}: {value}")
        bad = state.state != "absent" and not state.state.endswith("COMPLETE")
        bad = bad or "ROLLBACK" in state.state
        told = {"stack": name, "state": state.state, "outputs": state.outputs}
        output.result({**told, "reasons": list(state.reasons)}, FAILED if bad else 0)


def destroy(
    name: Name = DEFAULT,
    yes: Annotated[str, typer.Option("--yes", help="The stack's name again, to be sure.")] = "",
    as_json: Json = False,
) -> None:
    """Take the API down, with all pictures, models, records and accounts in it, for good."""
    with reporting(as_json) as output:
        if yes != name:
            raise UserError(
                f"This erases everything in the stack {name}: pictures, models, records, accounts.",
                f"If that is meant: --yes {name}",
            )
        remains = Stacks(read_settings()).destroy(name, output.words)
        for sentence in remains:
            output.words(f"What remains: {sentence}.")
        output.result({"stack": name, "state": "absent", "remains": remains})


def add_to(app: typer.Typer) -> None:
    """Make these commands of `avatar-studio aws`."""
    for command in (deploy, status, destroy):
        app.command()(command)


def _parameters(given: list[str]) -> dict[str, str]:
    found = {}
    for pair in given:
        key, separator, value = pair.partition("=")
        if not separator or not key.isalnum():
            raise UserError(f"“{pair[:60]}” is no parameter.", "Write it as Name=value.")
        found[key] = value
    return found

"""`toolenv sandbox`: the image and the containers of the docker sandbox, and what this machine can enforce."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from toolenv.console import Json_, out, print_json

sandbox_app = typer.Typer(
    help="Where tools and agent-written code run: images, containers, checks.", no_args_is_help=True
)


class Method(StrEnum):
    """Of building an image; `docker_image.METHODS` for the command line, which imports that only on use."""

    HOST = "host"
    REGISTRY = "registry"
    DEBOOTSTRAP = "debootstrap"


@sandbox_app.command(epilog="Example: toolenv sandbox build --from host")
def build(
    method: Annotated[
        Method, typer.Option("--from", help="This machine's Python, the official image, or Debian's Python.")
    ] = Method.HOST,
    as_json: Json_ = False,
) -> None:
    """Build the image that the docker sandbox needs. From the host it takes seconds and no network."""
    from toolenv.tools.sandbox import docker_image

    started = time.monotonic()
    with closing(docker_image.connect()) as client:
        name = docker_image.build(method.value, client)
        size = client.images.get(name).attrs["Size"]
    seconds = time.monotonic() - started
    if as_json:
        print_json({"image": name, "bytes": size, "seconds": round(seconds, 3)})
    else:
        typer.echo(f"{name}: {size / 1e6:.0f} MB in {seconds:.1f} s")


@sandbox_app.command("list", epilog="Example: toolenv sandbox list --json")
def list_containers(as_json: Json_ = False) -> None:
    """List our containers: whose they are, how old, when they expire, and from which image."""
    from toolenv.tools.sandbox import docker_image, docker_labels

    now = time.time()
    with closing(docker_image.connect()) as client:
        containers = [
            _described(found, docker_labels.why_stale(found["Labels"], now)) for found in docker_labels.ours(client)
        ]
    if as_json:
        print_json(containers)
        return
    table = Table("container", "owner", "age", "expires in", "image", "state")
    for one in containers:
        left = "" if one["expires"] is None else _span(one["expires"] - now)
        cells = (
            one["id"][:12],
            one["owner"],
            _span(now - one["created"]),
            left,
            one["image"],
            one["stale"] or one["state"],
        )
        table.add_row(*map(escape, cells))
    # As wide as it needs to be: a name that is cut names nothing.
    table.width = Measurement.get(out, out.options.update(max_width=1_000), table).maximum
    out.print(table, crop=False, overflow="ignore", no_wrap=True)


@sandbox_app.command(epilog="Example: toolenv sandbox gc")
def gc(as_json: Json_ = False) -> None:
    """Remove our containers whose owner is dead, and those that have expired. Nothing else is touched."""
    from toolenv.tools.sandbox import docker_image, docker_labels

    with closing(docker_image.connect()) as client:
        removed = docker_labels.collect(client)
    if as_json:
        print_json([asdict(one) for one in removed])
        return
    for one in removed:
        typer.echo(f"removed {one.name} ({one.id[:12]}): {one.reason}")
    typer.echo(f"{len(removed)} removed")


@sandbox_app.command(epilog="Example: toolenv sandbox doctor")
def doctor(as_json: Json_ = False) -> None:
    """Say what this machine can enforce. Exit status 0 if the embedded sandbox works, else 1."""
    from toolenv.tools.sandbox.doctor import EMBEDDED, examine

    findings = examine()
    works = any(finding.name == EMBEDDED and finding.works for finding in findings)
    if as_json:
        print_json({"embedded": works, "findings": [asdict(finding) for finding in findings]})
    else:
        table = Table("", "what", "how it is")
        for finding in findings:
            mark = "[green]yes[/]" if finding.works else "[yellow]no[/]"
            table.add_row(mark, finding.name, escape(finding.says))
        out.print(table)
    if not works:
        raise typer.Exit(1)


def _described(found: dict[str, Any], stale: str | None) -> dict[str, Any]:
    """A container as `list --json` gives it; times in seconds since 1970."""
    from toolenv.tools.sandbox import docker_labels

    expires = found["Labels"].get(docker_labels.EXPIRES, "")
    return {
        "id": found["Id"],
        "name": found["Names"][0].lstrip("/"),
        "image": found["Image"],
        "state": found["State"],
        "owner": found["Labels"].get(docker_labels.OWNER, ""),
        "session": found["Labels"].get(docker_labels.SESSION, ""),
        "created": found["Created"],
        "expires": int(expires) if expires.isdecimal() else None,
        "stale": stale,
    }


def _span(seconds: float) -> str:
    """A length of time, short: 42 s, 5 min, 3 h."""
    if seconds < 0:
        return "over"
    for unit, length in (("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"

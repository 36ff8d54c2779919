"""`toolenv serve`: a specialist or a cascade as an OpenAI-compatible endpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    model: Annotated[
        str,
        typer.Argument(
            help="A student's folder, grounded: and such a folder, adapters:SET, cascade:FILE.json, or llm:FILE.yaml."
        ),
    ],
    scenario: Annotated[
        list[str] | None,
        typer.Option(help="What it was trained for: a shipped scenario's name, or a YAML file. May be given again."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="By which clients ask for it; else its folder's name.")] = None,
    host: Annotated[str, typer.Option(help="Address; any but this machine's own needs a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one and logs it.")] = 8000,
    keys: Annotated[
        Path | None, typer.Option(help="Who may ask: NAME KEY a line. TOOLENV_API_KEY holds one, too.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Conversations decided at once.")] = 32,
    threads: Annotated[
        int | None, typer.Option(min=1, help="That decide; 1, or 8 where endpoints are asked, if left out.")
    ] = None,
    most_requests: Annotated[int, typer.Option(min=1, help="At once; one more gets 429.")] = 256,
    most_body_kib: Annotated[int, typer.Option(min=1, help="Of a request; a longer one gets 413.")] = 1024,
    per_minute: Annotated[int | None, typer.Option(min=1, help="Requests of one key; one more gets 429.")] = None,
    deadline: Annotated[float, typer.Option(min=0.001, help="Seconds for a reply; then 504.")] = 60.0,
    grace: Annotated[float, typer.Option(min=0, help="Seconds for requests under way, after SIGTERM.")] = 30.0,
    kept_mib: Annotated[
        int, typer.Option(min=0, help="Memory for what was computed of conversations, for their next turns.")
    ] = 512,
    log_requests: Annotated[bool, typer.Option("--log-requests", help="Log those that went well, too.")] = False,
) -> None:
    """Offer a specialist or a cascade as an OpenAI-compatible endpoint: /v1/chat/completions, /health, /metrics."""
    from toolenv.agents.serving.server import serve as run
    from toolenv.agents.serving.settings import Keys, ServeSettings
    from toolenv.agents.serving.specialist import load_specialist

    settings = ServeSettings(
        host=host,
        port=port,
        keys=Keys.read(keys),
        batch=batch,
        threads=threads,
        most_requests=most_requests,
        most_body_bytes=most_body_kib << 10,
        per_minute=per_minute,
        deadline_s=deadline,
        grace_s=grace,
        most_kept_bytes=kept_mib << 20,
        log_requests=log_requests,
    )
    run(load_specialist(model, scenarios=scenario or (), name=name), settings)

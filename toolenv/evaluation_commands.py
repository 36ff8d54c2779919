"""`toolenv compare`: what is done with evaluations that were kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolenv.console import Json_, out, print_json


def compare(
    first: Annotated[Path, typer.Argument(help="An evaluation that `evaluate --output` kept.")],
    second: Annotated[Path, typer.Argument(help="Another, of the same tasks.")],
    as_json: Json_ = False,
) -> None:
    """Compare two policies pair by pair on the tasks that both were evaluated on."""
    from toolenv.training.comparison import compare as run
    from toolenv.training.comparison import render_comparison
    from toolenv.training.evaluate import Evaluation

    comparison = run(*(Evaluation.from_json(path.read_bytes(), str(path)) for path in (first, second)))
    if as_json:
        print_json(comparison.to_json())
    else:
        render_comparison(comparison, out)

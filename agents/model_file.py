"""Reads a JSON file that a pydantic model describes, with errors that name file, field and rule."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from toolenv.tools.errors import OperatorError

Model = TypeVar("Model", bound=BaseModel)


def read_model(
    kind: type[Model], path: Path, error: type[OperatorError], *, missing: str, whole: str = "file"
) -> Model:
    """What lies in a file.

    Args:
        error: what is raised, if it is missing, damaged or of another version.
        missing: said where there is no such file.
        whole: the name of what the file holds, for rules that are about no field.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise error(f"{path}: no such file; {missing}") from None
    except OSError as problem:
        raise error(f"{path}: {problem.strerror}") from None
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_context=False, include_input=False)[0]
        raise error(f"{path}: {'.'.join(map(str, first['loc'])) or whole}: {first['msg']}") from None

"""Settings from a YAML file, as a pydantic model."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from toolenv.tools.calls import Json
from toolenv.tools.errors import OperatorError

Settings = TypeVar("Settings", bound=BaseModel)


def read_settings(kind: type[Settings], path: Path, error: type[OperatorError]) -> Settings:
    """The settings in a file; what it does not name, however deep, is as it is by default.

    Args:
        error: what is raised: it names file, field and rule.
    """
    try:
        named = yaml.safe_load(path.read_text()) or {}
        return kind.model_validate(_merged(_defaults(kind), named) if isinstance(named, dict) else named)
    except yaml.YAMLError as problem:
        raise error(f"{path}: not YAML: {str(problem).replace(chr(10), ' ')}") from None
    except UnicodeDecodeError as problem:
        raise error(f"{path}: not a text: {problem}") from None
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_context=False, include_input=False)[0]
        raise error(f"{path}: {'.'.join(map(str, first['loc'])) or 'settings'}: {first['msg']}") from None


def _defaults(kind: type[BaseModel]) -> dict[str, Json]:
    """What the fields are if they are not named; fields that must be named are missing."""
    given = {name: field.get_default(call_default_factory=True) for name, field in kind.model_fields.items()}
    return {
        name: value.model_dump() if isinstance(value, BaseModel) else value
        for name, value in given.items()
        if not kind.model_fields[name].is_required()
    }


def _merged(base: dict[str, Json], over: dict[str, Json]) -> dict[str, Json]:
    """`base` with what `over` names instead, mapping by mapping."""
    return base | {
        name: _merged(base[name], value) if isinstance(value, dict) and isinstance(base.get(name), dict) else value
        for name, value in over.items()
    }

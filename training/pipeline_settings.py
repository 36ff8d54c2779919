"""The settings of a pipeline: one YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, field_validator

from toolenv.agents.formats import LogFormat
from toolenv.agents.log_filters import LogFilterSettings
from toolenv.scenarios.loading import Scenario
from toolenv.tools.drift import DriftedToolbox
from toolenv.tools.drifting import DEFAULT_SEVERITY, drifted, kind_named
from toolenv.tools.errors import OperatorError
from toolenv.training.gate import GateSettings
from toolenv.training.mix import MixSettings
from toolenv.training.settings_file import read_settings
from toolenv.training.sft import SFTSettings

OURS: Final = "toolenv"
"""The form of a dataset of ours."""


class PipelineError(OperatorError):
    """The settings of a pipeline can not be read, or its logs are not there."""


class LogSource(BaseModel):
    """Where logs come from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path = Field(description="A file, or a folder of files; new ones are read in each run.")
    form: str = Field("openai", description='As for `toolenv import`, or "toolenv" for datasets of ours.')

    @field_validator("form")
    @classmethod
    def _known(cls, form: str) -> str:
        if form not in (known := (*LogFormat, OURS)):
            raise ValueError(f"there is no form {form!r}; there is: {', '.join(known)}")
        return form


class RedactionSettings(BaseModel):
    """What is taken for personal, besides what is always."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: Path | None = Field(None, description="File with the key of the pseudonyms; the registry's own if left out.")
    region: str | None = Field(None, description="Whose phone numbers are found without a country code, such as US.")
    name_fields: tuple[str, ...] = Field((), description="Further fields that hold names: `field` or `tool.field`.")

    @field_validator("region")
    @classmethod
    def _known(cls, region: str | None) -> str | None:
        if region is not None and (len(region) != 2 or not region.isupper()):
            raise ValueError(f"a region is two capitals, such as US, not {region!r}")
        return region


class DriftSettings(BaseModel):
    """How today's tools differ from the scenario's, as `tools.drifting` draws it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kinds: tuple[str, ...]
    severity: float = Field(DEFAULT_SEVERITY, gt=0, le=1)
    seed: int = Field(0, ge=0)

    @field_validator("kinds")
    @classmethod
    def _known(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(kind_named(kind)) for kind in kinds)


class PipelineSettings(BaseModel):
    """All that a run depends on, besides its logs and the current model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scenario: str = Field(description="A shipped scenario's name, or a YAML file: whose tools the specialist calls.")
    families: str = Field("train", description='Of synthetic and gate tasks: "train", or names with commas between.')
    registry: Path = Field(Path("registry"), description="Folder of all versions.")
    model: str = Field("toolenv-tiny", description="The model that the first run begins with.")
    logs: tuple[LogSource, ...] = ()
    general: tuple[Path, ...] = Field((), description="Datasets of ours that are mixed in.")
    seed: int = Field(0, ge=0)
    redact: RedactionSettings = RedactionSettings()
    filter: LogFilterSettings = LogFilterSettings()
    mix: MixSettings = MixSettings()
    train: SFTSettings = Field(SFTSettings(checkpoint_steps=50), description="Its model and seed are the pipeline's.")
    gate: GateSettings = GateSettings()
    drift: DriftSettings | None = Field(None, description="How the tools have changed since the scenario was written.")

    @classmethod
    def read(cls, path: Path) -> PipelineSettings:
        """Settings from a YAML file; paths in it are relative to its folder.

        Raises:
            PipelineError: names file, field and rule.
        """
        return read_settings(cls, path, PipelineError).beside(path.parent)

    def beside(self, folder: Path) -> PipelineSettings:
        """The settings with paths relative to a folder."""
        paths: dict[str, object] = {
            "registry": folder / self.registry,
            "logs": tuple(source.model_copy(update={"path": folder / source.path}) for source in self.logs),
            "general": tuple(folder / path for path in self.general),
        }
        if self.redact.key is not None:
            paths["redact"] = self.redact.model_copy(update={"key": folder / self.redact.key})
        if (scenario := folder / self.scenario).is_file():
            paths["scenario"] = str(scenario)
        if (model := folder / self.model).is_dir():
            paths["model"] = str(model)
        return self.model_copy(update=paths)

    @property
    def family_names(self) -> str | tuple[str, ...]:
        """The families as `Sampler` takes them."""
        return self.families if self.families in ("train", "unseen", "all") else tuple(self.families.split(","))

    def tools_of_today(self, scenario: Scenario) -> DriftedToolbox | None:
        """The drifted tools; None if they are as the scenario says."""
        if self.drift is None:
            return None
        return drifted(scenario.toolbox, self.drift.kinds, severity=self.drift.severity, seed=self.drift.seed)

"""The exceptions of toolenv: one cause a class, and two audiences that are never mixed.

ToolenvError
├── ToolError                what the *agent* did; becomes an observation, never leaves `step`
│   ├── MalformedCall          not a call and not an answer: bad JSON, wrong shape, not JSON at all
│   ├── UnknownTool            no tool of that name
│   ├── InvalidArguments       an argument is missing, unknown, of the wrong type or out of range
│   ├── InvalidQuery           a text in a query language that can not be carried out
│   ├── NotFound               a well-formed identifier that names nothing
│   └── RuleViolation          a business rule forbids it
└── OperatorError            what the *operator* must mend; raised, never shown to an agent
    ├── DeclarationError       a tool is declared wrongly
    ├── ScenarioError          a scenario file is wrong: file, line, field, rule
    │   └── TemplateError        a template does not compile or render (scenarios/templates.py)
    ├── RecordError            a trajectory file is damaged or of another version
    ├── SandboxLost            the infrastructure under an episode failed
    ├── DatasetMismatch        the folder holds something else (agents/dataset.py)
    ├── DatasetBusy            another process is writing to the folder (agents/records.py)
    ├── SandboxUnavailable     this machine lacks what the sandbox needs (tools/sandbox/interpreters.py)
    ├── SandboxExhausted       every container is full (tools/sandbox/docker_sandbox.py)
    ├── WorkerLost             a worker process died (agents/collect.py)
    ├── ModelError             a model folder is missing or incomplete (agents/language_model.py)
    ├── SettingsError          the settings of an endpoint can not be read (agents/chat_client.py)
    ├── PolicyStopped          a policy can not go on (agents/policy.py)
    │   ├── BudgetSpent          the next request does not fit into the budget (agents/budget.py)
    │   └── EndpointError        an endpoint refused, or could not be reached (agents/chat_client.py)
    ├── GrammarError           the schemas of a toolbox make no grammar (agents/grounded.py)
    ├── ServiceError           a service can not be started as it is set (agents/serving/settings.py)
    ├── FolderTaken            the folder holds a run with other settings (training/claim.py)
    ├── NothingToReport        a folder holds nothing of a run (training/run_files.py)
    ├── NothingToFit           a small model whose steps are all right, or all wrong (training/doubt.py)
    ├── AdapterError           an adapter or a set of them is damaged, or does not fit (agents/adapters.py)
    ├── CascadeError           a cascade's file is missing, damaged or of another version (agents/cascade.py)
    ├── DistillError           the settings of a distillation can not be read (training/distill.py)
    ├── PipelineError          the settings or logs of a pipeline can not be read (training/pipeline_settings.py)
    └── RegistryError          a registry has no such version, or can not go there (training/registry.py)

An error that one module raises is defined there, the others here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar


class ToolenvError(Exception):
    """Base of every exception that toolenv raises on purpose."""


class ToolError(ToolenvError):
    """Something the agent did. `payload()` is what the agent gets to see."""

    type: ClassVar[str] = "tool_error"

    def __init__(self, message: str, *, field: str | None = None, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.details = details

    def payload(self) -> dict[str, object]:
        """The JSON object of the error observation: type, field (if any), details, message."""
        error: dict[str, object] = {"type": self.type}
        if self.field is not None:
            error["field"] = self.field
        error.update(self.details)
        error["message"] = self.message
        return {"error": error}


class MalformedCall(ToolError):
    """The action is neither a call nor an answer."""

    type = "malformed_call"


class UnknownTool(ToolError):
    """No tool of that name is in the toolbox."""

    type = "unknown_tool"


class InvalidArguments(ToolError):
    """An argument breaks the tool's schema; `field` and `rule` say which one and how."""

    type = "invalid_arguments"


class InvalidQuery(ToolError):
    """A query whose text its language does not allow; `rule` says how."""

    type = "invalid_query"


class NotFound(ToolError):
    """A well-formed identifier that names nothing in this world."""

    type = "not_found"


class RuleViolation(ToolError):
    """A business rule forbids the call; `rule` is its name."""

    type = "rule_violation"

    def __init__(self, rule: str, message: str, *, field: str | None = None, **details: object) -> None:
        super().__init__(message, field=field, rule=rule, **details)
        self.rule = rule


AGENT_ERRORS: Mapping[str, type[ToolError]] = {
    cls.type: cls for cls in (MalformedCall, UnknownTool, InvalidArguments, InvalidQuery, NotFound, RuleViolation)
}


INVALID_CALLS: frozenset[str] = frozenset((MalformedCall.type, UnknownTool.type, InvalidArguments.type))
"""Of a call that does not parse or does not validate, so that it never reached the world."""


class OperatorError(ToolenvError):
    """Something the operator must mend."""


class DeclarationError(OperatorError):
    """A tool is declared wrongly: no description, no types, two of one name."""


class ScenarioError(OperatorError):
    """A scenario file is wrong. Each problem reads `file:line: field: rule`."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class RecordError(OperatorError):
    """A trajectory file is damaged, truncated or of another version."""


class SandboxLost(OperatorError):
    """The infrastructure under an episode failed; its reward says nothing about the agent."""

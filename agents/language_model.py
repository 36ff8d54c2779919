"""A transformers model as a policy: many episodes in one batch, ids kept as they were sampled.

What a student is shown is decided by the `toolenv.json` beside its weights (`PromptStyle`), written when it is trained
and read when it acts, so that both see the same text. torch and transformers are imported when a policy is made.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from toolenv.agents.decoding import decode
from toolenv.agents.decoding_batch import Past
from toolenv.agents.dialects import HermesDialect, ToolenvDialect
from toolenv.agents.grounded import Constraint, GroundedGrammar
from toolenv.agents.policy import Conversation, Decision
from toolenv.envs.actions import Action, Malformed
from toolenv.envs.turn import Message
from toolenv.tools.calls import Json, json_text
from toolenv.tools.errors import OperatorError
from toolenv.tools.identifiers import Aliases
from toolenv.tools.toolbox import Toolbox

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

STYLE_FILE = "toolenv.json"
DEFAULT_MAX_NEW_TOKENS = 160
_TOOLBOXES = 16  # whose grammars are kept
ASSISTANT = "<|assistant|>"
DIALECTS: dict[str, ToolenvDialect | HermesDialect] = {
    dialect.name: dialect for dialect in (ToolenvDialect(), HermesDialect())
}


class ModelError(OperatorError):
    """A model folder is missing, incomplete or of another kind."""


class ToolListing(StrEnum):
    """What the system message says of the tools, a line each; a specialist has all of it in its weights.

    NAMES: the bare names. SIGNATURES: with the names of the arguments. SCHEMAS: all there is, as OpenAI's form has it.
    """

    NONE = "none"
    NAMES = "names"
    SIGNATURES = "signatures"
    SCHEMAS = "schemas"


@dataclass(frozen=True, slots=True)
class PromptStyle:
    """What a student is shown of a conversation.

    Attributes:
        dialect: how calls are written: "toolenv" for our own models, "hermes" for any other chat model.
        aliases: show identifiers as short aliases, one token each.
        system: show the system message. A specialist of one scenario has it in its weights.
        tools: what the system message says of the tools.
    """

    dialect: str = "toolenv"
    aliases: bool = True
    system: bool = False
    tools: ToolListing = ToolListing.NONE

    def __post_init__(self) -> None:
        if self.dialect not in DIALECTS:
            raise ModelError(f"there is no dialect {self.dialect!r}; there is: {', '.join(DIALECTS)}")
        if self.tools not in list(ToolListing):
            raise ModelError(f"tools can not be shown as {self.tools!r}; there is: {', '.join(ToolListing)}")
        object.__setattr__(self, "tools", ToolListing(self.tools))  # a file has it as a text

    @classmethod
    def load(cls, folder: Path) -> PromptStyle:
        """The style beside a model's weights.

        Raises:
            ModelError: the file is missing or not what it should be.
        """
        path = folder / STYLE_FILE
        try:
            data = json.loads(path.read_text())
        except FileNotFoundError:
            raise ModelError(f"{path}: missing; was the model trained by toolenv? It has no chat template") from None
        except ValueError as error:
            raise ModelError(f"{path}: not JSON: {error}") from None
        if unknown := set(data) - {item.name for item in fields(cls)}:
            raise ModelError(f"{path}: {min(unknown)}: unknown field")
        if isinstance(shown := data.get("tools"), bool):  # as it was written before there were several ways
            every = ToolListing.SCHEMAS if data.get("dialect") == HermesDialect.name else ToolListing.SIGNATURES
            data["tools"] = every if shown else ToolListing.NONE
        return cls(**data)

    def save(self, folder: Path) -> None:
        (folder / STYLE_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n")


CHAT_STYLE = PromptStyle(dialect="hermes", aliases=False, system=True, tools=ToolListing.SCHEMAS)
"""Of a chat model that knows nothing of toolenv."""


class Prompter:
    """Turns one conversation into a student's text, and the student's actions back.

    The same object must see the whole conversation in order: aliases are numbered as identifiers appear.

    Args:
        tokenizer: whose chat template is used; the toolenv dialect needs none.
    """

    def __init__(self, style: PromptStyle, toolbox: Toolbox, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        self._style, self._toolbox, self._tokenizer = style, toolbox, tokenizer
        self.dialect = DIALECTS[style.dialect]
        self._aliases = Aliases(toolbox.shown_identifiers) if style.aliases else None

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        """The messages as the student sees them."""
        shown = [self._shown(message) for message in messages]
        return [message for message in shown if message["role"] != "system" or message["content"]]

    def shown(self, messages: Sequence[Message]) -> dict[str, list[str]]:
        """Entity -> the identifiers that the conversation has shown, as the student writes them.

        Args:
            messages: the whole conversation, which `context` has seen.
        """
        if self._aliases is not None:
            return self._aliases.shown()
        finder = Aliases(self._toolbox.shown_identifiers)
        for message in messages:
            if message["role"] != "assistant":
                _hide(finder, message)
        return finder.seen()

    def action(self, text: str) -> Action:
        """What the student's text stands for, with real identifiers."""
        action = self.dialect.parse(text)
        if self._aliases is None or isinstance(action, Malformed):
            return action
        return type(action)(**self._aliases.reveal({name: getattr(action, name) for name in action.__slots__}))

    def pieces(self, messages: Sequence[Message]) -> list[tuple[str, bool]]:
        """A whole conversation as text, in pieces: (text, whether the student writes it).

        Raises:
            ModelError: the chat template rewrites what came before when a message is added.
        """
        shown = self.messages(messages)
        if isinstance(self.dialect, HermesDialect):
            return self._template_pieces(self.dialect.to_chat(shown, self._tools()))
        pieces: list[tuple[str, bool]] = []
        for message in shown:
            text = self.dialect.render_messages([message])
            if message["role"] == "assistant":
                pieces += [(ASSISTANT, False), (text.removeprefix(ASSISTANT), True)]
            else:
                pieces.append((text, False))
        return pieces

    def context(self, messages: Sequence[Message], written: Mapping[int, str] | None = None) -> str:
        """The text after which the student writes its next turn.

        Args:
            messages: the whole conversation; in the toolenv dialect also those since the student's last turn.
            written: number of an assistant's turn, from 0 -> what the student wrote, which then stands there to the
                letter; only where there is a chat template.
        """
        shown = self.messages(messages)
        if isinstance(self.dialect, HermesDialect):
            chat = self.dialect.to_chat(shown, self._tools())
            for i, turn in enumerate(turn for turn in chat if turn["role"] == "assistant"):
                turn["content"] = (written or {}).get(i, turn["content"])
            return self._template(chat, ask=True)
        return self.dialect.render_messages(shown) + ASSISTANT

    def _template_pieces(self, chat: list[dict[str, str]]) -> list[tuple[str, bool]]:
        pieces: list[tuple[str, bool]] = []
        done = ""
        for i, message in enumerate(chat):
            if message["role"] != "assistant":
                continue
            for text, own in ((self._template(chat[:i], ask=True), False), (self._template(chat[: i + 1]), True)):
                if not text.startswith(done):
                    raise ModelError("the model's chat template rewrites earlier turns; it can not be trained on")
                pieces.append((text[len(done) :], own))
                done = text
        return pieces

    def _template(self, chat: list[dict[str, str]], *, ask: bool = False) -> str:
        if self._tokenizer is None or not self._tokenizer.chat_template:
            raise ModelError("the model's tokenizer has no chat template")
        return str(self._tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=ask))

    def _tools(self) -> list[Json]:
        return self._toolbox.to_openai() if self._style.tools == ToolListing.SCHEMAS else []

    def _shown(self, message: Message) -> Message:
        system = message["role"] == "system"
        if system and not self._style.system:
            message = {**message, "content": ""}
        if self._aliases is not None:
            message = _hide(self._aliases, message)
        # Identifiers in a schema are examples: they get no alias.
        return {**message, "content": "\n".join([str(message["content"]), *self._tool_lines()])} if system else message

    def _tool_lines(self) -> list[str]:
        specs = self._toolbox.specs
        match self._style.tools:
            case ToolListing.NAMES:
                return [spec.name for spec in specs]
            case ToolListing.SIGNATURES:
                return [f"{spec.name}({', '.join(spec.parameters['properties'])})" for spec in specs]
            case ToolListing.SCHEMAS if isinstance(self.dialect, ToolenvDialect):
                return [json_text(tool) for tool in self._toolbox.to_openai()]
        return []  # none, or the chat template's dialect lists them


def _hide(aliases: Aliases, message: Message) -> Message:
    if message["role"] == "tool":
        return {**message, "content": aliases.hide_json(str(message["content"]))}
    return {key: aliases.hide(value) for key, value in message.items()}


@dataclass(frozen=True, slots=True)
class Student:
    """A model that is loaded, with what it needs to act: a policy's, or one in the midst of its training."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    style: PromptStyle

    @classmethod
    def load(cls, path: str | Path, *, device: str = "cpu") -> Student:
        """The student in a folder with weights, tokenizer and `toolenv.json`, in float32.

        Without `toolenv.json` it is any chat model: it is shown all there is, in its chat template, and calls as in the
        dialect hermes.

        Raises:
            ModelError: the folder is no model, or neither toolenv's nor one with a chat template.
        """
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()  # its bar for loading weights
        folder = Path(path)
        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder}: no model here: config.json is missing")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        other = tokenizer.chat_template and not (folder / STYLE_FILE).is_file()
        style = CHAT_STYLE if other else PromptStyle.load(folder)
        if not any(folder.glob("*.safetensors")):
            raise ModelError(f"{folder}: no weights as safetensors; pickled ones are not read, for they can run code")
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
        )
        return cls(model.to(device).eval(), tokenizer, style)


@dataclass(frozen=True, slots=True)
class _Shown:
    """How many tokens a turn was shown, and how many of them had been computed before."""

    tokens: int
    cached: int


class LanguageModelPolicy:
    """A language model as a policy.

    Args:
        source: a model's folder; or a `Student`, whose weights are used as they are at each turn, so that a training
            loop can roll out what it trains.
        temperature: 0 decodes greedily; else tokens are sampled, by the episode's own generator.
        max_new_tokens: of one turn; a turn cut there can not be read.
        name: in records; else the folder's name, or "student".
        device: where torch computes, if `source` is a folder.
        grounded: only valid calls with identifiers that were shown can be written; see `agents.grounded`.

    Raises:
        ModelError: the folder is no model that can be prompted, or the tokenizer has no end.
    """

    def __init__(
        self,
        source: str | Path | Student,
        *,
        temperature: float = 0.0,
        max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
        name: str | None = None,
        device: str = "cpu",
        grounded: bool = False,
    ) -> None:
        student = source if isinstance(source, Student) else Student.load(source, device=device)
        self.name = name or ("student" if isinstance(source, Student) else Path(source).name)
        self.model, self.tokenizer, self.style = student.model, student.tokenizer, student.style
        self.temperature, self.max_new_tokens = temperature, max_new_tokens
        if self.tokenizer.eos_token_id is None:
            raise ModelError(f"{source}: the tokenizer has no end-of-sequence token")
        if max_new_tokens >= self.model.config.max_position_embeddings:
            raise ModelError(f"{source}: a turn of {max_new_tokens} tokens leaves no room for what comes before it")
        self._end = int(self.tokenizer.eos_token_id)
        if grounded and self.style.dialect != ToolenvDialect.name:
            raise ModelError(f"{source}: grounded decoding is for the dialect toolenv, not {self.style.dialect}")
        self.grounded = grounded
        self._grammars: dict[str, GroundedGrammar] = {}

    def act(self, episodes: Sequence[Conversation]) -> list[Decision]:
        contexts = [self.context(episode) for episode in episodes]
        limit = self.model.config.max_position_embeddings - self.max_new_tokens
        contexts = [ids[-limit:] for ids in contexts]
        pasts: list[Past] = [episode.memory["past"] for episode in episodes]
        shown = [_Shown(len(ids), past.common(ids, past.weights)) for ids, past in zip(contexts, pasts, strict=True)]
        written = decode(
            self.model,
            contexts,
            end=self._end,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            rngs=[episode.rng("sampling") for episode in episodes],
            pasts=pasts,
            constraints=[self._constraint(episode) for episode in episodes] if self.grounded else None,
        )
        turns = zip(episodes, shown, written, strict=True)
        return [self._decide(episode, seen, *out) for episode, seen, out in turns]

    def _constraint(self, episode: Conversation) -> Constraint:
        toolbox = episode.toolbox
        if (grammar := self._grammars.get(toolbox.version)) is None:
            if len(self._grammars) >= _TOOLBOXES:
                self._grammars.pop(next(iter(self._grammars)), None)
            grammar = GroundedGrammar(self.tokenizer, toolbox, self.model.config.vocab_size)
            self._grammars[toolbox.version] = grammar
        return grammar.constraint(episode.memory["prompter"].shown(episode.messages), self.max_new_tokens)

    def context(self, episode: Conversation) -> list[int]:
        """The episode's ids so far: sampled ones as they were sampled, the others' text encoded once."""
        memory = episode.memory
        if "prompter" not in memory:
            memory.update(prompter=Prompter(self.style, episode.toolbox, self.tokenizer), ids=[], seen=0)
            memory.update(text="", written={})
            memory.setdefault("past", Past())  # it may begin with what was computed of another episode's like context
        messages, prompter = episode.messages, memory["prompter"]
        if self.style.dialect == HermesDialect.name:
            # A chat template is only known as a whole: all is rendered anew, and what is new of it is encoded.
            text = prompter.context(messages, memory["written"])
            if not text.startswith(memory["text"]):  # the template rewrites earlier turns
                memory.update(text="", ids=[])
            memory["ids"] += self._encode(text.removeprefix(memory["text"]))
            memory["text"] = text
            return list(memory["ids"])
        new = messages[memory["seen"] :]
        # What the student itself wrote is in the ids already, from when it was sampled.
        if memory["seen"]:
            prompter.messages(new[:1])
            new = new[1:]
        memory["ids"] += self._encode(prompter.context(new))
        memory["seen"] = len(messages)
        return list(memory["ids"])

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _decide(self, episode: Conversation, shown: _Shown, ids: list[int], logprobs: list[float]) -> Decision:
        text = str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        memory = episode.memory
        memory["ids"] += ids
        memory["text"] += text
        prompter = memory["prompter"]
        written = text.removesuffix(str(self.tokenizer.eos_token))
        turn = sum(message["role"] == "assistant" for message in episode.messages)
        memory["written"][turn] = written
        rounded = tuple(round(value, 5) for value in logprobs)
        spans = prompter.dialect.spans(text)
        act = self._token_at(ids, spans[-1].start)  # ACT is the last in every dialect
        return Decision(
            prompter.action(written),
            text,
            spans,
            tuple(ids),
            rounded,
            act_token=act,
            prompt_tokens=shown.tokens,
            cached_tokens=shown.cached,
        )

    def _token_at(self, ids: list[int], start: int) -> int:
        """The index of the token with which character `start` of the text begins."""

        def length(count: int) -> int:
            options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
            return len(str(self.tokenizer.decode(ids[:count], **options)))

        return bisect_left(range(len(ids)), start, key=length)

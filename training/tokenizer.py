"""The tokenizer of the toolenv base models: a byte-level BPE in which one entity is one token.

A tool-using student fails first where a value must be copied. So the vocabulary is laid out for
copying: every entity alias (``<o7>``) is one token, every digit is one token, the words of the domain
and the joints of compact JSON are mostly one token. The ids of special tokens (0-7) and aliases (8-487)
never depend on the corpus; the byte alphabet and the merges come after them.

Any text that can be written in UTF-8 comes back unchanged from ``decode(encode(text))``: there is no
normalisation, no added space and no clean-up. What this module does not protect from: a special token
that stands in a user's or a tool's text is read as that token. The dialect, which
renders foreign text, breaks them first (``toolenv.agents.dialects.neutralise``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PAD: Final = "<|pad|>"
SYSTEM: Final = "<|system|>"
USER: Final = "<|user|>"
ASSISTANT: Final = "<|assistant|>"
TOOL: Final = "<|tool|>"
CALL: Final = "<|call|>"
ANSWER: Final = "<|answer|>"
END: Final = "<|end|>"
SPECIAL_TOKENS: Final = (PAD, SYSTEM, USER, ASSISTANT, TOOL, CALL, ANSWER, END)

ALIAS_LETTERS: Final = "coipsvtnekrd"
"""Entity types: customer, order, item, product, shipment, invoice, ticket, note, e-mail, tracking
number, refund, credit."""
ALIASES_PER_LETTER: Final = 40
ALIASES: Final = tuple(f"<{letter}{number}>" for letter in ALIAS_LETTERS for number in range(1, ALIASES_PER_LETTER + 1))

CONTEXT_LENGTH: Final = 1024
VOCABULARY_SIZE: Final = 2048

_ADDED = re.compile(r"<\|[a-z]+\|>|<[a-z]\d{1,2}>")

# A word keeps one leading space or underscore, so `get_order_status` is `get`, `_order`, `_status`: pieces that
# unseen tool names share. Digits stand alone; a run of signs, such as a joint of JSON, is one piece.
_PIECES: Final = r"\p{N}| ?_?[\p{L}\p{M}]+| ?_+| ?[^\s\p{L}\p{M}\p{N}_]+|\s+(?!\S)|\s+"

CHAT_TEMPLATE: Final = """\
{%- macro listing(tools) -%}
{%- for tool in tools -%}
{%- set fn = tool.function if tool.function is defined else tool -%}
{{- '\\n' + fn.name + '(' -}}
{%- if fn.parameters is defined and fn.parameters and fn.parameters.properties is defined -%}
{{- fn.parameters.properties.keys() | list | join(', ') -}}
{%- endif -%}
{{- ')' -}}
{%- endfor -%}
{%- endmacro -%}
{%- if tools and (not messages or messages[0].role != 'system') -%}
{{- '<|system|>' + listing(tools) + '<|end|>' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'system' -%}
{{- '<|system|>' + message.content -}}
{%- if tools and loop.first -%}{{- listing(tools) -}}{%- endif -%}
{{- '<|end|>' -}}
{%- elif message.role == 'user' -%}
{{- '<|user|>' + message.content + '<|end|>' -}}
{%- elif message.role == 'tool' -%}
{{- '<|tool|>' -}}
{%- if message.content is string -%}{{- message.content -}}
{%- else -%}{{- message.content | tojson(separators=(',', ':'), ensure_ascii=False) -}}{%- endif -%}
{{- '<|end|>' -}}
{%- elif message.role == 'assistant' -%}
{{- '<|assistant|>' -}}
{%- generation -%}
{%- set reasoning = message.reasoning_content if message.reasoning_content is defined -%}
{%- set reasoning = reasoning if reasoning else '' -%}
{%- set content = message.content if message.content is defined and message.content else '' -%}
{%- if message.tool_calls is defined and message.tool_calls -%}
{{- reasoning if reasoning else content -}}
{%- for call in message.tool_calls -%}
{%- set fn = call.function if call.function is defined else call -%}
{{- '<|call|>' + fn.name + ' ' -}}
{%- if fn.arguments is string -%}{{- fn.arguments -}}
{%- else -%}{{- fn.arguments | tojson(separators=(',', ':'), ensure_ascii=False) -}}{%- endif -%}
{%- endfor -%}
{%- else -%}
{{- reasoning + '<|answer|>' + content -}}
{%- endif -%}
{{- '<|end|>' -}}
{%- endgeneration -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""
"""Renders messages in the Hugging Face / TRL form as the toolenv dialect, prefix-preserving.

An assistant message with ``tool_calls`` is reasoning (``reasoning_content``, else ``content``) and a call;
without, it is ``reasoning_content`` and an answer (``content``). ``tools`` are listed in the system turn."""

DOMAIN_NOUNS: Final = tuple("customer order item product shipment invoice ticket note refund credit".split())
DOMAIN_FIELDS: Final = tuple(
    "id name email phone city tier status credit_balance created_on category price stock active customer_id "
    "order_id product_id quantity unit_price placed_on total paid refunded shipping_address carrier "
    "tracking_number shipped_on expected_on delivered_on amount issued_on due_on reason subject priority "
    "assignee text page pages results query type field message error shipment_id invoice_id ticket_id note_id "
    "item_id sku body kind address street country date currency".split()
)
DOMAIN_VALUES: Final = tuple(
    "standard silver gold active suspended closed pending paid packed shipped delivered cancelled returned "
    "in_transit out_for_delivery lost open void overdue low normal high urgent resolved changed_mind damaged "
    "late wrong_item goodwill not_found invalid_value forbidden unknown_tool true false null".split()
)
DOMAIN_TOOLS: Final = tuple(
    "find_customer_by_email get_customer_by_id search_customers update_customer_contact get_order_by_id "
    "get_order_status search_orders get_latest_order list_order_items cancel_order refund_order issue_credit "
    "update_shipping_address get_product_by_id search_products check_stock get_shipment_by_order track_shipment "
    "get_invoice_by_order get_invoice_by_id list_customer_invoices create_ticket get_ticket_by_id search_tickets "
    "close_ticket set_ticket_priority add_customer_note list_customer_notes".split()
)
COMMON_WORDS: Final = tuple(
    "the of to and a in is that it for was on with as at by this not be have from or are but no if so an one two "
    "all you your my me we i he she they them his her our us has had will would can could should must may do does "
    "did done there here what which who when where how why then than more most less least after before again also "
    "only first last next new old same other each every any some none both either its their because please thanks "
    "thank hello hi need needs want wants know tell asked asks ask find found look looked show shows give given get "
    "gets got set sets add added list listed check checked change changed make made see seen use used now today yet "
    "still already never always up out over under above below about between within without into too very just like "
    "matches match meets limit rule policy allowed allows rules call tool result answer step value values number "
    "name names date dates amount sum count highest lowest latest earliest newest oldest cheapest right wrong ok yes "
    "done sorry cannot possible missing unknown exists enough less bought sent paid arrived arrives box parcel money "
    "back euro euros day days week month year account mail address street phone city latest whole part cost costs "
    "stock price quantity left needed wait waits works work lookup look-up tells says say states fact facts told "
    "who's don't isn't it's i'd i'm reference record records entry table row rows key field help question person "
    "people team someone matter case reply write read send cancel close open issue update create search track "
    "request requested confirm confirmed decline declined correct corrected try tried retry fails failed".split()
)


def compact_json(value: Any) -> str:
    """JSON as the dialect writes it: no spaces, non-ASCII kept."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def domain_corpus(weight: int = 1) -> Iterator[str]:
    """Lines that hold the words of the domain in the shapes in which episodes show them."""
    signs = ['{"', '":"', '","', '":', ',"', '"}', '":{"', '"}}', '"},{"', '":[{"', '"}]', '"}],"', '":[', '"],"']
    signs += [' {"', ' {"', ' {"', "},", '},{"', "}]}", "}}", "]}", '":{}', "{}", '":""', " ("]
    signs += list(".,?:()-@")
    for _ in range(weight):
        for word in (*DOMAIN_NOUNS, *DOMAIN_FIELDS, *DOMAIN_VALUES):
            yield from (word, f'"{word}"', f" {word}", f" {word}", f'"{word}"')
        for noun in DOMAIN_NOUNS:
            yield from (f" {noun}s", f"{noun}s", f" {noun.capitalize()}", noun.capitalize(), f"{noun}_id")
        yield from DOMAIN_TOOLS
        for part in sorted({part for name in DOMAIN_TOOLS for part in name.split("_")}):
            yield from (part, f"_{part}")
        for word in COMMON_WORDS:
            yield from (f" {word}", f" {word}")
        for word in COMMON_WORDS[::2]:
            yield word.capitalize()
        for sign in signs:
            yield f"a{sign}a"
            yield f"1{sign}a"


def build_tokenizer(corpus: Iterable[str], vocabulary_size: int = VOCABULARY_SIZE) -> PreTrainedTokenizerFast:
    """Trains the tokenizer on `corpus`.

    Args:
        corpus: texts; special tokens and aliases in them separate pieces and are not learnt from.
        vocabulary_size: size in tokens, all of them: 8 special, 480 aliases, 256 bytes, the rest merges.

    Raises:
        ValueError: `vocabulary_size` leaves no room for a single merge.
    """
    first_free = len(SPECIAL_TOKENS) + len(ALIASES)
    if vocabulary_size <= first_free + 256:
        raise ValueError(f"a vocabulary of {vocabulary_size} holds no merges; need more than {first_free + 256}")
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = _pre_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - first_free,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(_plain_parts(corpus), trainer)
    learnt = json.loads(trained.to_str())["model"]
    vocabulary = {token: index for index, token in enumerate((*SPECIAL_TOKENS, *ALIASES))}
    vocabulary |= {token: index + first_free for token, index in learnt["vocab"].items()}
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in learnt["merges"]]
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = _pre_tokenizer()
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    backend.add_tokens([AddedToken(alias, normalized=False) for alias in ALIASES])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens=[SYSTEM, USER, ASSISTANT, TOOL, CALL, ANSWER],
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT_LENGTH,
        padding_side="right",
        model_input_names=["input_ids", "attention_mask"],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def load_tokenizer(folder: Path | str) -> PreTrainedTokenizerFast:
    """Loads a saved tokenizer.

    Raises:
        FileNotFoundError: `folder` holds no ``tokenizer.json``.
    """
    if not (Path(folder) / "tokenizer.json").is_file():
        raise FileNotFoundError(f"no tokenizer.json in {folder}")
    return PreTrainedTokenizerFast.from_pretrained(str(folder))


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _plain_parts(corpus: Iterable[str]) -> Iterator[str]:
    for text in corpus:
        yield from (part for part in _ADDED.split(text) if part)

"""The normal form of a tool sequence: loops are folded, so that one order and seven orders are the same kind of work.

What repeats side by side becomes one element with a `+`: `search get get get` is `search get+`, `a b a b` is `(a b)+`.
Short loops fold first, and `a b b a b` folds to `(a b+)+`, since one turn is a loop as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_LONGEST = 200
"""Of a longer sequence only so many calls are looked at; no task of a specialist has as many."""


@dataclass(frozen=True, slots=True)
class _Part:
    body: str | tuple[_Part, ...]
    repeated: bool = False

    @property
    def kind(self) -> object:
        """The same for `a` and `a+`."""
        return self.body if isinstance(self.body, str) else tuple(part.kind for part in self.body)

    def __str__(self) -> str:
        body = self.body if isinstance(self.body, str) else f"({' '.join(map(str, self.body))})"
        return f"{body}+" if self.repeated else body


def normal_form(tools: Sequence[str]) -> str:
    """The sequence with its loops folded; "" of no call."""
    parts = [_Part(tool) for tool in tools[:_LONGEST]]
    length = 1
    while length <= len(parts) // 2:
        folded = _folded(parts, length)
        length = 1 if len(folded) < len(parts) else length + 1
        parts = folded
    return " ".join(map(str, parts)) + (" …" if len(tools) > _LONGEST else "")


def _folded(parts: list[_Part], length: int) -> list[_Part]:
    """Runs of equal blocks of this length, each as one part."""
    out: list[_Part] = []
    at = 0
    while at < len(parts):
        block, end = parts[at : at + length], at + length
        kind = [part.kind for part in block]
        while [part.kind for part in parts[end : end + length]] == kind:
            block = [_merged(one, other) for one, other in zip(block, parts[end : end + length], strict=True)]
            end += length
        if end == at + length:
            out.append(parts[at])
            at += 1
            continue
        out.append(_Part(block[0].body if length == 1 else tuple(block), repeated=True))
        at = end
    return out


def _merged(one: _Part, other: _Part) -> _Part:
    """What stands for both; it is repeated if either is."""
    body = one.body
    if not isinstance(one.body, str) and not isinstance(other.body, str):
        body = tuple(_merged(a, b) for a, b in zip(one.body, other.body, strict=True))
    return _Part(body, one.repeated or other.repeated)

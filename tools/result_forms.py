"""Results in another form: other field names, dates and amounts written otherwise, errors told in other words.

A tool that shows dates as 05 Jan 2026 takes them so, too: `hear` brings what an agent writes back into the tools' own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from toolenv.tools.calls import Json

MONEY: Final = frozenset("total amount price paid refunded balance credit_limit credit spent fee".split())
"""Fields whose numbers are amounts of money."""
ERROR_TEXTS: Final = (
    "Request failed: {}",
    "The server answered: {} (nothing was changed)",
    "{} Please check your input.",
)
_AMOUNT: Final = re.compile(r"(\d+\.\d\d) EUR\b")
_ISO: Final = re.compile(r"\b(\d{4})-(\d\d)-(\d\d)\b")
_MONTHS: Final = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


@dataclass(frozen=True, slots=True)
class DateFormat:
    """A way to write dates: from ISO, and back."""

    write: Callable[[str, str, str], str]
    pattern: re.Pattern[str]
    read: Callable[[re.Match[str]], str]


DATE_FORMATS: Final[Mapping[str, DateFormat]] = {
    "05/01/2026": DateFormat(
        lambda y, m, d: f"{d}/{m}/{y}", re.compile(r"\b(\d\d)/(\d\d)/(\d{4})\b"), lambda f: f"{f[3]}-{f[2]}-{f[1]}"
    ),
    "05 Jan 2026": DateFormat(
        lambda y, m, d: f"{d} {_MONTHS[int(m) - 1]} {y}",
        re.compile(rf"\b(\d\d) ({'|'.join(_MONTHS)}) (\d{{4}})\b"),
        lambda f: f"{f[3]}-{_MONTHS.index(f[2]) + 1:02}-{f[1]}",
    ),
    "2026.01.05": DateFormat(
        lambda y, m, d: f"{y}.{m}.{d}", re.compile(r"\b(\d{4})\.(\d\d)\.(\d\d)\b"), lambda f: f"{f[1]}-{f[2]}-{f[3]}"
    ),
}
"""Each under the way in which it writes the fifth of January 2026."""


@dataclass(frozen=True)
class ResultForms:
    """The form of a toolbox's results.

    Attributes:
        fields: name of a field -> its other name; a field whose object has the other name already keeps its own.
        date: a key of `DATE_FORMATS`; None for ISO dates.
        money_as_text: amounts of money as "12.50 EUR".
        error: of `ERROR_TEXTS`, with the message in its braces.
    """

    fields: Mapping[str, str] = field(default_factory=dict)
    date: str | None = None
    money_as_text: bool = False
    error: str = "{}"

    def show(self, content: Json, *, field: str = "") -> Json:
        """What a tool gave, in this form; it stands under `field`."""
        if isinstance(content, dict):
            return {
                self._name(name, content): self.error.format(item)
                if field == "error" and name == "message"
                else self.show(item, field=name)
                for name, item in content.items()
            }
        if isinstance(content, list):
            return [self.show(item, field=field) for item in content]
        if isinstance(content, str) and self.date is not None:
            write = DATE_FORMATS[self.date].write
            return _ISO.sub(lambda found: write(found[1], found[2], found[3]), content)
        if isinstance(content, float) and field in MONEY and self.money_as_text:
            return f"{content:.2f} EUR"
        return content

    def hear(self, value: Json) -> Json:
        """What an agent wrote (text, or JSON of any depth), dates and amounts as the tools know them."""
        if isinstance(value, str):
            if self.money_as_text and (amount := _AMOUNT.fullmatch(value)) is not None:
                return float(amount[1])
            return self.hear_text(value)
        if isinstance(value, dict):
            return {name: self.hear(item) for name, item in value.items()}
        return [self.hear(item) for item in value] if isinstance(value, list) else value

    def hear_text(self, text: str) -> str:
        """`hear` of prose, in which an amount stays text."""
        if self.date is not None:
            form = DATE_FORMATS[self.date]
            text = form.pattern.sub(form.read, text)
        return _AMOUNT.sub(r"\1", text) if self.money_as_text else text

    def _name(self, name: str, beside: Mapping[str, Json]) -> str:
        other = self.fields.get(name, name)
        return name if other in beside else other

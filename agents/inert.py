"""Foreign text as people may look at it: what steers a terminal or turns a line around is shown as a sign instead.

What users, tools and models wrote may hold terminal escapes (ESC, CSI), marks that reverse the direction of text
(Unicode TR 36, "Trojan Source"), and letters without width. `visible` shows each of them; all else stays as it is.

What this omits: letters that look like other letters.
"""

from __future__ import annotations

import re
from typing import Final

# Categories Cc, Cf, Zl and Zp as far as they do something to what stands beside them; and what is no character.
_STEERING: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_PICTURES: Final = 0x2400  # of Unicode: a sign for each of the first 32 control codes


def visible(text: str) -> str:
    """`text` with a sign in place of each character that steers: ESC is ␛, a bidi override ⟨U+202E⟩.

    Newlines and tabs stay. Nothing that is left moves a cursor, changes a colour or the direction of text.

    Example:
        >>> visible("\\x1b[31mred")
        '␛[31mred'
    """
    return _STEERING.sub(_sign, text)


def _sign(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x20:
        return chr(_PICTURES + code)
    return "\u2421" if code == 0x7F else f"⟨U+{code:04X}⟩"

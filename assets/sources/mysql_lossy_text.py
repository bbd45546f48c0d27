"""Which text of another character set has no UTF-8 form, as the server itself converts it."""

from __future__ import annotations

from assets.sources.mysql_connection import quoted

LOST = ("?", "\ufffd")
"""What the server writes in place of a character that it cannot convert; the second one by some character sets."""
_UNICODE = ("ucs2", "utf16", "utf16le", "utf32", "gb18030")  # in these the second one is a character of its own


def loses_text(value: str, charset: str) -> str:
    """The condition that characters of this SQL value are lost in UTF-8.

    For most character sets it is not enough that it does not come back as the same bytes: cp932, eucjpms, sjis and
    others write some characters in two ways. Measured over the characters of all character sets of MariaDB 10.11.
    """
    text = f"convert({value} USING utf8mb4)"
    if charset in _UNICODE:
        return f"hex(convert({text} USING {quoted(charset)})) <> hex({value})"
    # a question mark of the value's own stays one
    more = f"char_length(replace({text}, '?', '')) <> char_length(replace({value}, '?', ''))"
    return f"({more} OR locate(x'{LOST[1].encode().hex()}', cast({text} AS binary)))"

"""Text from outside: one spelling for each text, nothing hidden in it, and nothing that moves a terminal.

Unicode can write "é" as one character or as two. All text is stored in the composed form (NFC), so that two
posts that look the same are the same. Characters that nobody sees, or that reorder what is seen, are refused
when a correction comes in. Ledgers from before may hold them: `escaped` shows them as codes.

Refused are control characters (Cc), halves of surrogate pairs (Cs), and the separators of lines and
paragraphs (Zl, Zp). Refused are also format characters (Cf), such as the marks and overrides of writing
direction, and fillers that show nothing. What is taken although it is of such a kind:

- the joiners of JOINERS after a character from U+0590 on. Persian and the scripts of India spell with them,
  and emoji are put together with them. After a Latin, Greek or Cyrillic letter they only hide.
- the signs of SEEN, which are format characters but are printed;
- one variation selector behind a character, as in ❤️. A row of them is refused, because it can carry a text.
"""

import re
import unicodedata

#: No character has a longer canonical decomposition, so composing makes no text shorter than by this.
LONGEST_DECOMPOSITION = 4
#: zero-width non-joiner and joiner, the Mongolian vowel separator, and the joiners of Egyptian hieroglyphs
JOINERS = frozenset({0x200C, 0x200D, 0x180E, *range(0x13430, 0x13440)})
#: From here on letters join: Hebrew is the first script behind Armenian, Cyrillic, Greek and Latin.
FIRST_JOINING = 0x0590
#: signs above Arabic, Syriac and Kaithi numbers: they have the category of format characters and are printed
SEEN = frozenset({*range(0x0600, 0x0606), 0x06DD, 0x070F, 0x0890, 0x0891, 0x08E2, 0x110BD, 0x110CD})
#: They are letters or marks by category and print nothing: the grapheme joiner and the fillers.
FILLERS = frozenset({0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0})
_SELECTORS = frozenset({*range(0x180B, 0x180E), 0x180F, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)})
_HIDING = frozenset({"Cc", "Cs", "Cf", "Zl", "Zp"})
#: For patterns of OpenAPI, which have no categories: text without controls, line breaks and directions.
PLAIN = "^[^\\x00-\\x1f\\x7f-\\x9f\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069]*$"
#: Most texts need no look at each character.
_ORDINARY = re.compile(r"[ -~\u00a1-\u00ac\u00ae-\u024f]*")


def composed(text: str, most: int | None = None) -> str:
    """The text in NFC. One that is too long for `most` characters in any form is returned as it came.

    Composing takes time that grows with the square of a row of accents.
    """
    if most is not None and len(text) > LONGEST_DECOMPOSITION * most:
        return text
    return unicodedata.normalize("NFC", text)


def spellings(*texts: str) -> list[str]:
    """The ways in which a ledger from before may spell the texts: as given, composed and decomposed."""
    forms = {unicodedata.normalize(form, text) for text in texts for form in ("NFC", "NFD")}
    return sorted(forms.union(texts))


def hidden(text: str) -> tuple[int, str] | None:
    """Where the first character stands that is refused, and which; None when there is none."""
    if _ORDINARY.fullmatch(text):
        return None
    for place, char in enumerate(text):
        if _hides(char, text[place - 1] if place else ""):
            return place, char
    return None


def _hides(char: str, before: str) -> bool:
    code = ord(char)
    if code in SEEN:
        return False
    if code in JOINERS:
        return not before or ord(before) < FIRST_JOINING or ord(before) in JOINERS
    if code in _SELECTORS:
        return not before or ord(before) in _SELECTORS
    if code in FILLERS or 0xE0000 <= code < 0xE1000:
        return True
    return unicodedata.category(char) in _HIDING


def described(char: str) -> str:
    """U+202E (right-to-left override)."""
    name = unicodedata.name(char, "").lower()
    return f"U+{ord(char):04X}" + (f" ({name})" if name else "")


def plain(value: str) -> str:
    """The text itself.

    Raises:
        ValueError: it is blank, or holds a character that is not taken.
    """
    if not value.strip():
        raise ValueError("is blank; give the words")
    found = hidden(value)
    if found is None:
        return value
    place, char = found
    if unicodedata.category(char) in ("Cc", "Cs"):
        what = f"holds a control character or half a surrogate pair, {described(char)}"
    else:
        what = f"holds a character that is not seen or turns the text, {described(char)}"
    raise ValueError(f"{what}, at character {place + 1}; write one line of plain text")


def escaped(text: str, keep: str = "") -> str:
    """The text with each character that is refused above as a code such as \\u202e; `keep` stays."""
    if _ORDINARY.fullmatch(text):
        return text
    shown = list[str]()
    for place, char in enumerate(text):
        before = text[place - 1] if place else ""
        shown.append(_code(char) if char not in keep and _hides(char, before) else char)
    return "".join(shown)


def _code(char: str) -> str:
    """As JSON writes it, so that JSON stays JSON: beyond U+FFFF as two halves."""
    raw = char.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{raw[i : i + 4]}" for i in range(0, len(raw), 4))

"""Patterns that several stages find characters, and parts of a text, by."""

import re

#: For a class of characters in a regular expression: ideographs of the Basic Multilingual Plane (who writes in rarer ones also
#: writes in these), and the syllables of Japanese.
HAN, KANA = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff", r"\u3040-\u30ff"
LETTER = re.compile(r"[^\W\d_]")
PARAGRAPH_END = re.compile(r"\n[^\S\n]*\n\s*")
ELLIPSES = ("...", "…")

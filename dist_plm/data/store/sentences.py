"""Where sentences end, in English and Chinese: rules, for objectives that pair segments (next sentence, sentence order).

English follows the usual reading of full stops (Grefenstette and Tapanainen 1994): one that belongs to an abbreviation,
an initial or a number ends no sentence, unless the next word plainly begins one; neither does any mark before a word in
small letters. Chinese sentences end at 。！？ with the closing quotes after them, unless the speaker follows, as in
“走吧！”他说。 A blank line ends any sentence, a line's end alone does not, for text may be wrapped.
"""

import re
from itertools import pairwise

_CLOSING = "\"'”’»)\\]}」』）】》〉"
_OPENING = "\"'“‘«(\\[{¿¡*_"
_CHINESE = "\u3400-\u9fff\uf900-\ufaff"
# A run of marks is looked at from its beginning alone, and given up at once: a line of a million dots is not searched
# from each of them.
_CANDIDATE = re.compile(
    rf"(?P<paragraph>\n[^\S\n]*(?=\n))"
    rf"|(?P<wide>[。！？][。！？!?…]*[{_CLOSING}]*|(?<=[{_CHINESE}])[!?]+[{_CLOSING}]*"
    rf"|(?<!…)…++[{_CLOSING}]*(?=[^\S\n]*[{_CHINESE}]))"
    rf"|(?P<narrow>(?<![.!?…])[.!?…]++[{_CLOSING}*_]*)(?=\s|$)"
)
_NEXT = re.compile(rf"\s+[{_OPENING}]*([^\s{_OPENING}][\w’'-]*)?")
_BEFORE = re.compile(r"[^\s(\[{\"“‘'—–/]+$")
_INITIALS = re.compile(r"[A-Z]|(?:[A-Za-z]\.)+[A-Za-z]")
_LIST_NUMBER = re.compile(r"(?:\d{1,3}|[a-z]|[ivx]{1,4})")
#: The speaker after a quotation: a few characters, then a verb of speaking and a mark.
_SPEAKER = re.compile(rf"(?!.{{0,6}}[没沒不无無])[{_CHINESE}]{{1,8}}?[说說道问問喊叫答嚷骂罵笑想叹嘆][。，,：:！]")
_WORD_CHARS = 40  # as far back as a word is looked for


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


#: A name, or the rest of a phrase, follows.
_NEVER_LAST = _words(
    "mr mrs ms dr prof rev hon gen col capt lt sgt maj cmdr adm gov sen rep pres messrs mme mlle vs e.g i.e cf viz ca "
    "approx st mt ft dept est"
)
#: A number follows; otherwise they are words.
_BEFORE_NUMBER = _words(
    "no nos art sec fig figs ch p pp vol vols eq eqs pt jan feb mar apr jun jul aug sep sept oct nov dec tab c n°"
)
#: They may end a sentence, and do before a word that begins one.
_MAY_BE_LAST = _words("etc inc ltd co corp jr sr bros al a.m p.m ph.d b.c a.d ave blvd rd esq ed eds cal")
_BEGINNERS = _words(
    "the a an this that these those there here he she it they we i you his her its their our my your who what when "
    "where why how which and but or so if in on at as after before then now however for from with by to of all some "
    "many most each both another such no not yes one although while since because during once until under over let "
    "please perhaps meanwhile still even also did do does is are was were have has had can could would should will "
    "it's he's she's i'm they're we're that's there's"
)


def sentences(text: str) -> list[str]:
    """The sentences of a text, in order; joined they are the text. White space between two belongs to the second.

    None is without a character that is not white space, unless the text is.
    """
    bounds, begin = [0], 0  # between the last bound and `begin` there is white space alone
    for end in sentence_ends(text):
        if text[begin:end].strip():
            bounds.append(end)
        begin = end
    if text[bounds[-1] :].strip() or len(bounds) == 1:
        bounds.append(len(text))
    bounds[-1] = len(text)
    return [text[start:stop] for start, stop in pairwise(bounds)]


def sentence_ends(text: str) -> list[int]:
    """Positions after the last character of each sentence, strictly ascending, the last one perhaps excepted."""
    ends: list[int] = []
    for match in _CANDIDATE.finditer(text):
        if match["paragraph"] is not None:
            if not ends or ends[-1] < match.start():  # a mark before the blank line ended it
                ends.append(match.start())
        elif (_ends_chinese if match["wide"] is not None else _ends_english)(text, match):
            ends.append(match.end())
    return ends


def _ends_chinese(text: str, match: re.Match[str]) -> bool:
    mark, end = match.group(), match.end()
    quoted = mark[-1] not in "。！？!?…"
    if mark[0] == "…" and not quoted:
        return False  # a pause
    if text[end : end + 1] in ("，", "、", "；", "：", "—") and end < len(text):
        return False
    return not (quoted and _SPEAKER.match(text, end))


def _ends_english(text: str, match: re.Match[str]) -> bool:
    following = _NEXT.match(text, match.end())
    word = following[1] if following else None
    if word is None:
        return True
    marks = match.group()
    if word[0].islower() or word[0] in ".,;:)":
        return False
    if marks[0] != "." or marks.startswith(".."):
        return True
    return _full_stop_ends(text, match.start(), word)


def _full_stop_ends(text: str, stop: int, following: str) -> bool:
    """Whether the full stop at `stop` ends a sentence, before a word that does not begin with a small letter."""
    found = _BEFORE.search(text, max(stop - _WORD_CHARS, 0), stop)
    word = found.group() if found else ""
    lower, begins = word.lower(), following.lower() in _BEGINNERS
    numbers_item = _LIST_NUMBER.fullmatch(word) and _at_beginning(text, stop - len(word))
    if numbers_item or lower in _NEVER_LAST:
        return False
    if lower in _BEFORE_NUMBER:
        return not following[0].isdigit()
    if lower in _MAY_BE_LAST or _INITIALS.fullmatch(word):
        return begins
    return True


def _at_beginning(text: str, position: int) -> bool:
    """Whether a line or a sentence begins at `position`."""
    before = text[max(position - _WORD_CHARS, 0) : position].rstrip(" \t-*(")
    return not before or before[-1] in ".!?\n"

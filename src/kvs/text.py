"""Text for messages: printable names, counts, and causes of errors."""

import os


def printable(
    raw: bytes | str | os.PathLike[str] | os.PathLike[bytes], limit: int | None = None
) -> str:
    r"""Return `raw` as text for any terminal: one line of printable characters.

    Bytes that are not UTF-8 and characters that are not printable (newlines, escapes, ...) become
    ``\xNN``, ``\n`` and so on; a backslash becomes ``\\``. With `limit`, more than `limit` bytes
    are cut, and the text ends in ``...``.
    """
    data = os.fsencode(raw)
    cut = limit is not None and len(data) > limit
    text = data[:limit].decode(errors="surrogateescape")
    escaped = "".join(map(_escape, text))
    return escaped + "..." if cut else escaped


def printable_line(raw: bytes, limit: int | None = None) -> str:
    r"""Return a line, or a part of it, as `printable` does, but each backslash as it is.

    So users see what they typed, with its escapes. Unlike the text of `printable`, by which paths
    and words are told apart, this one may stand for several lines.
    """
    text = "\\".join(map(printable, raw[:limit].split(b"\\")))
    return text + "..." if limit is not None and len(raw) > limit else text


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as surrogateescape decodes it
        return f"\\x{code - 0xDC00:02x}"
    if character.isprintable() and character != "\\":
        return character
    return character.encode("unicode_escape").decode("ascii")


def pluralize(number: int, noun: str) -> str:
    """Return a count of `noun`, given in the singular: ``1 pair``, ``2 pairs``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def os_error_text(error: OSError) -> str:
    """Return the operating system's text for `error`, without path and number."""
    return error.strerror or str(error)

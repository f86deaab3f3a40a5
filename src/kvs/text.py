"""Text for messages: names made printable, counts, and causes."""

import os


def printable(
    raw: bytes | str | os.PathLike[str] | os.PathLike[bytes], limit: int | None = None
) -> str:
    r"""Return `raw` as text that any terminal takes: one line of printable characters.

    Bytes that are no UTF-8 and characters that do not print (newlines, escapes, ...) become
    ``\xNN``, ``\n`` and so on, a backslash ``\\``. With `limit`, what is longer is cut and ends
    in ``...``.
    """
    data = os.fsencode(raw)
    cut = limit is not None and len(data) > limit
    text = data[:limit].decode(errors="surrogateescape")
    printable = "".join(map(_printable, text))
    return printable + "..." if cut else printable


def _printable(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that surrogateescape carried through
        return f"\\x{code - 0xDC00:02x}"
    if character.isprintable() and character != "\\":
        return character
    return character.encode("unicode_escape").decode("ascii")


def pluralize(number: int, what: str) -> str:
    """Return how many there are of `what`, a noun in the singular: ``1 pair``, ``2 pairs``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def os_error_text(error: OSError) -> str:
    """Return the operating system's word for `error`, with no path and no number."""
    return error.strerror or str(error)

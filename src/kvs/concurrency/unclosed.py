"""The warning about an object that was dropped without a call of its `close`."""

import warnings


def warn_unclosed(what: str) -> None:
    """Warn that `what` was closed by its finalizer. Any thread, within any call.

    Where warnings are errors the interpreter reports it on stderr, as for every exception of a
    finalizer (`sys.unraisablehook`).
    """
    warnings.warn(f"unclosed {what}", ResourceWarning, stacklevel=2)

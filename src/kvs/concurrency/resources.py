"""Objects that own resources of this process: files, pipes, locks."""

import warnings
from typing import NoReturn, SupportsIndex


class NonCopyable:
    """A base class: `copy.copy`, `copy.deepcopy` and `pickle` of its objects raise `TypeError`."""

    __slots__ = ()

    def __reduce_ex__(self, _protocol: SupportsIndex, /) -> NoReturn:
        """Raise an exception: `copy` and `pickle` both call this.

        Raises:
            TypeError: always.

        """
        raise TypeError(
            f"cannot copy or pickle a {type(self).__name__}: it belongs to this process; "
            "make a new one instead"
        )


def warn_unclosed(description: str) -> None:
    """Warn that the finalizer of an object closed it, because no call of its `close` did.

    Threads: any, within any call. If warnings are errors, the interpreter reports the warning on
    stderr, as it does every exception of a finalizer (`sys.unraisablehook`).
    """
    warnings.warn(f"unclosed {description}", ResourceWarning, stacklevel=2)

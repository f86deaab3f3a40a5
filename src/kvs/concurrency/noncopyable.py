"""Objects that cannot be copied or pickled, because they hold resources of this process."""

from typing import NoReturn, SupportsIndex


class NonCopyable:
    """A base class: `copy.copy`, `copy.deepcopy` and `pickle` of its objects raise `TypeError`."""

    __slots__ = ()

    def __reduce_ex__(self, _protocol: SupportsIndex, /) -> NoReturn:
        """Refuse: `copy` and `pickle` both call this.

        Raises:
            TypeError: always.

        """
        raise TypeError(
            f"cannot copy or pickle a {type(self).__name__}: it belongs to this process; "
            "make a new one instead"
        )

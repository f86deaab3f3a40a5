"""Objects that own resources can be neither copied nor pickled."""

import copy
import pickle
from collections.abc import Callable

import pytest

from kvs.concurrency.resources import NonCopyable


class Holder(NonCopyable):
    """An object with a resource."""


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_copy_and_pickle_raise_one_clear_error(duplicate: Callable[[object], object]) -> None:
    with pytest.raises(TypeError) as raised:
        duplicate(Holder())
    assert str(raised.value) == (
        "cannot copy or pickle a Holder: it belongs to this process; make a new one instead"
    )


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_pickle_protocol_raises(protocol: int) -> None:
    with pytest.raises(TypeError, match="cannot copy or pickle a Holder"):
        pickle.dumps([Holder()], protocol)

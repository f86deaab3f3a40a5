"""Settings refuse what no run can mean."""

import pytest

from kvs.settings import Settings, cores


def test_numbers_below_one_are_refused() -> None:
    assert Settings(1).backups == 2
    with pytest.raises(ValueError, match="threads must be 1 or more, not 0"):
        Settings(0)
    with pytest.raises(ValueError, match="backups must be 1 or more, not -1"):
        Settings(1, -1)


def test_there_is_a_core() -> None:
    assert cores() >= 1

"""Settings refuse what no run can mean."""

import pytest

from kvs.settings import ServerSettings, Settings, cores


def test_numbers_below_one_are_refused() -> None:
    assert Settings(1).backups == 2
    with pytest.raises(ValueError, match="threads must be 1 or more, not 0"):
        Settings(0)
    with pytest.raises(ValueError, match="backups must be 1 or more, not -1"):
        Settings(1, -1)


def test_there_is_a_core() -> None:
    assert cores() >= 1


def test_a_bound_of_replies_below_one_is_refused() -> None:
    assert ServerSettings().reply_total_bytes == 256 << 20
    with pytest.raises(ValueError, match="reply_total_bytes must be 1 or more, not 0"):
        ServerSettings(reply_total_bytes=0)

"""Settings reject invalid values."""

import pytest

from kvs.settings import FIFO_MODES, DataSettings, ServerSettings, Settings, usable_cpu_count


def test_numbers_below_one_are_rejected() -> None:
    assert Settings(1).backups == 2
    with pytest.raises(ValueError, match="threads must be 1 or more, not 0"):
        Settings(0)
    with pytest.raises(ValueError, match="backups must be 1 or more, not -1"):
        Settings(1, -1)


def test_usable_cpu_count_is_at_least_one() -> None:
    assert usable_cpu_count() >= 1


def test_only_the_owner_may_read_a_registration_pipe() -> None:
    for mode in range(0o10000):
        if mode in FIFO_MODES:
            assert ServerSettings(fifo_mode=mode).fifo_mode == mode
            assert mode & 0o7755 == 0o600
        else:
            with pytest.raises(ValueError, match="fifo_mode is one of 600, 620, 602, 622, not"):
                ServerSettings(fifo_mode=mode)


@pytest.mark.parametrize("name", ["reply_total_bytes", "blocked_clients"])
def test_limit_of_a_server_below_one_is_rejected(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be 1 or more, not 0"):
        ServerSettings(**{name: 0})


def test_keep_segments_is_not_negative() -> None:
    assert DataSettings().keep_segments == 0
    with pytest.raises(ValueError, match="keep_segments must be 0 or more, not -1"):
        DataSettings(keep_segments=-1)

"""The clock, in milliseconds."""

import time

import pytest

from kvs.posix.clock import now_ms


def test_time_is_in_whole_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_790_000_000_123_999_999)
    assert now_ms() == 1_790_000_000_123

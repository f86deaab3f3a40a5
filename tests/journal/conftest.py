"""A fixed time for the headers of groups."""

import pytest

from tests.journal.builders import TIME_MS


@pytest.fixture(autouse=True)
def fixed_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every group the same time, that of `JournalBuilder`."""
    monkeypatch.setattr("kvs.journal.format.now_ms", lambda: TIME_MS)

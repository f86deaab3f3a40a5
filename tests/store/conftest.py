"""Storage that blocks or fails on demand, for every store of a test."""

import pytest

from tests.journal.fake_storage import Fault, Gate, put_in


@pytest.fixture(name="gate")
def _gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate()
    put_in(monkeypatch, gate)
    return gate


@pytest.fixture(name="fault")
def _fault(monkeypatch: pytest.MonkeyPatch) -> Fault:
    fault = Fault()
    put_in(monkeypatch, fault)
    return fault

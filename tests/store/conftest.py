"""Storage that blocks or fails on demand, for every store of a test."""

import pytest

from tests.journal.fake_storage import Fault, Gate, install


@pytest.fixture(name="gate")
def _gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate()
    install(monkeypatch, gate)
    return gate


@pytest.fixture(name="fault")
def _fault(monkeypatch: pytest.MonkeyPatch) -> Fault:
    fault = Fault()
    install(monkeypatch, fault)
    return fault

"""Fixtures of a served directory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.serving import Served, serving


@pytest.fixture(name="served")
def _served(tmp_path: Path) -> Iterator[Served]:
    """Serve an empty directory with one thread."""
    (tmp_path / "jobs").mkdir()
    with serving(tmp_path / "jobs") as served:
        yield served

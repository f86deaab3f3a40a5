"""The check of the operating system."""

import pytest

from kvs.posix.linux import require_linux


def test_linux_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    require_linux()


@pytest.mark.parametrize("platform", ["darwin", "win32", "freebsd14", "linux2"])
def test_other_system_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    monkeypatch.setattr("sys.platform", platform)
    with pytest.raises(ImportError) as caught:
        require_linux()
    assert str(caught.value) == f"kvs needs Linux; this system is {platform}"

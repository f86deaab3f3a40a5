"""Long values through write, journal, compaction, recovery, backup and restore: bounded memory."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kvs.library import Store
from kvs.settings import DataSettings
from kvs.snapshot.reader import load
from kvs.store import maintenance

pytestmark = pytest.mark.stress

MARGIN_BYTES = 64 << 20
"""Bytes of memory allowed beside twice the live data."""


def memory(field: str) -> int:
    """Return a size of this process in bytes, as /proc/self/status names it."""
    with open("/proc/self/status") as status:
        sizes = dict(line.split(":", 1) for line in status)
    return int(sizes[field].split()[0]) << 10


def growth(act: Callable[[], object]) -> int:
    """Call `act` in a child; return the bytes by which the memory of the child grew at most."""
    source, sink = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            before = memory("VmRSS")
            act()
            os.write(sink, b"%d" % (memory("VmHWM") - before))
        finally:
            os._exit(0)
    os.close(sink)
    with open(source, "rb") as result:
        text = result.read()
    os.waitpid(pid, 0)
    return int(text)


@pytest.mark.parametrize(
    ("count", "size", "quoted"), [(1, 1 << 24, False), (1000, 1 << 20, False), (1, 1 << 24, True)]
)
def test_memory_is_bounded_by_twice_the_live_data(
    tmp_path: Path, count: int, size: int, quoted: bool
) -> None:
    # The spelling of a quotation mark has two bytes: a line of the longest value has 32 MiB.
    data, backup = tmp_path / "d", tmp_path / "x.bck"
    settings = DataSettings("never", compact_bytes=1 << 40)

    def line(number: int) -> bytes:
        value = b'"%b"' % (rb"\"" * size) if quoted else b"%d" % (number % 10) * size
        return b"WRITE [(k%d,%b)]\n" % (number, value)

    def write() -> None:
        with Store(data, settings) as store:
            for number in range(count):
                store.execute(line(number))
                store.commit_point().wait()

    def open_and(act: Callable[[Store], object]) -> Callable[[], None]:
        def opened() -> None:
            with Store(data, settings) as store:
                assert len(store) == count
                act(store)

        return opened

    def restore() -> None:
        loaded = load(os.fsencode(backup))
        assert maintenance.restore(tmp_path / "e", loaded.pairs, loaded.expiries) == 1

    def restore_into_open_store() -> None:
        with Store(tmp_path / "f", settings) as store:
            assert store.restore(backup) == 1

    def reopen() -> None:
        for name in "ef":
            with Store(tmp_path / name, settings) as store:
                assert (len(store), store.revision) == (count, 1)

    limit = 2 * count * size + MARGIN_BYTES
    spelling = 2 * size if quoted else 0  # of the line that the caller made
    assert growth(write) <= limit + spelling
    for act in (
        open_and(len),
        open_and(Store.compact),
        open_and(len),
        open_and(lambda store: store.backup(backup)),
        restore,
        restore_into_open_store,
        reopen,
    ):
        assert growth(act) <= limit, act

"""What changed between two stores: the output is a job that turns one into the other."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvs.engine.selection import create_engine
from kvs.errors import BackupFormatError, BackupReadError, CorruptionError, DirectoryLockedError
from kvs.language.output_format import format_listing
from kvs.snapshot import reader
from kvs.snapshot.frame import framed
from kvs.store import maintenance
from kvs.store.comparison import compare
from kvs.store.core import StoreCore
from tests.journal.builders import JournalBuilder, files, put
from tests.strategies import values, words

stores = st.dictionaries(
    words, st.tuples(values, st.none() | st.integers(0, 10**15 - 1)), max_size=5
)
Pairs = dict[bytes, tuple[bytes, int | None]]


def backup(path: Path, pairs: Pairs, *, in_frame: bool = False) -> Path:
    """Write a backup of `pairs`; return its path."""
    listed = sorted((key, value) for key, (value, _) in pairs.items())
    expiries = {key: until for key, (_, until) in pairs.items() if until is not None}
    blocks = list(format_listing(listed, expiries))
    path.write_bytes(b"".join(framed(7, len(pairs), blocks) if in_frame else blocks))
    return path


def directory(path: Path, pairs: Pairs) -> Path:
    """Create a data directory with `pairs`; return its path."""
    expiries = {key: until for key, (_, until) in pairs.items() if until is not None}
    maintenance.restore(path, {key: value for key, (value, _) in pairs.items()}, expiries)
    return path


def differences(old: Path, new: Path) -> list[bytes]:
    """Return the lines of a comparison."""
    lines: list[bytes] = []
    compare(old, new, lines.append)
    return lines


@given(old=stores, new=stores, kept=stores, forms=st.tuples(st.integers(0, 2), st.integers(0, 2)))
def test_lines_turn_one_store_into_the_other(
    tmp_path_factory: pytest.TempPathFactory,
    old: Pairs,
    new: Pairs,
    kept: Pairs,
    forms: tuple[int, int],
) -> None:
    place = tmp_path_factory.mktemp("compare")
    old, new = {**old, **kept}, {**kept, **new}
    paths = []
    for name, pairs, form in zip(("old", "new"), (old, new), forms, strict=True):
        path = place / name
        in_frame = form == 1
        paths.append(
            directory(path, pairs) if form == 2 else backup(path, pairs, in_frame=in_frame)
        )
    lines = differences(paths[0], paths[1])
    changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    assert len(lines) == len(changed)
    engine = create_engine()
    engine.replace(
        {key: value for key, (value, _) in old.items()},
        {key: until for key, (_, until) in old.items() if until is not None},
    )
    for key, line in zip(changed, lines, strict=True):
        assert engine.execute(line, 0, 0).diagnostics == []
        assert engine.get([key]) == [new[key][0] if key in new else None]
    expected = backup(place / "expected", new).read_bytes()
    assert engine.execute(b"SHOW UNTIL\n", 0, 0).output == expected
    assert differences(place / "expected", paths[1]) == []


def test_lines_ascend_in_canonical_spelling(tmp_path: Path) -> None:
    old = backup(tmp_path / "old", {b"a": (b"1", None), b"c": (b"1", 5), b"d": (b"", 6)})
    new = backup(
        tmp_path / "new",
        {b"b b": (b'"', 9), b"c": (b"1", None), b"d": (b"", 7), b"e": (b"", None)},
    )
    assert differences(old, new) == [
        b"DELETE [a]\n",
        b'WRITE [("b b","\\"")] UNTIL 9\n',
        b"WRITE [(c,1)]\n",
        b'WRITE [(d,"")] UNTIL 7\n',
        b'WRITE [(e,"")]\n',
    ]


@pytest.mark.parametrize("in_frame", [False, True])
def test_backups_are_read_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, in_frame: bool
) -> None:
    monkeypatch.setattr(reader, "BLOCK", 60)
    pairs: Pairs = {b"key%04d" % number: (b"1", number) for number in range(100)}
    old = backup(tmp_path / "old", pairs, in_frame=in_frame)
    changed: Pairs = {**pairs, b"key0099": (b"2", None)}
    new = backup(tmp_path / "new", changed, in_frame=in_frame)
    assert differences(old, new) == [b"WRITE [(key0099,2)]\n"]
    parts = [len(part.pairs) for part in reader.stream(bytes(old))]
    assert sum(parts) == 100
    assert max(parts) < 10


def test_trouble_of_either_side_is_raised(tmp_path: Path) -> None:
    good = backup(tmp_path / "good", {b"a": (b"1", None)})
    (tmp_path / "bad").write_bytes(b"(a, 1)\nnonsense\n")
    damaged = JournalBuilder().group(b"WRITE [(a,1)]\n", 1)
    put(tmp_path / "damaged", {damaged.name: damaged.data.replace(b"(a,1)", b"(a,2)")})
    put(tmp_path / "data", files(damaged))
    for name, error in {
        "bad": BackupFormatError,
        "none": BackupReadError,
        "damaged": CorruptionError,
        "locked": DirectoryLockedError,
    }.items():
        with StoreCore(tmp_path / "locked"):
            for pair in ((good, tmp_path / name), (tmp_path / name, tmp_path / "data")):
                with pytest.raises(error):
                    differences(*pair)

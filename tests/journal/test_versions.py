"""Directories that kvs 0.1 wrote, in version 1 of the format: read, continued, or refused."""

from pathlib import Path

import pytest

from kvs.errors import DataDirectoryError
from kvs.store import maintenance
from kvs.store.core import StoreCore
from tests.journal.builders import Files, JournalBuilder, contents, files, put, read

PLAIN = {
    "0000000001.journal": b"""\
# kvs journal 1 0000000001 00000000000000000000 25ecb70ded23469c 00000000 381e2ef2
# group 00000000000000000000 00000000000000000002 000000000030 f5b3d469 e28cc81d
WRITE [(a,1)(b,2)]
DELETE [b]
# group 00000000000000000002 00000000000000000003 000000000014 8c2f8de1 9adcce6a
WRITE [(c,3)]
"""
}
QUOTED = {
    "0000000001.journal": b"""\
# kvs journal 1 0000000001 00000000000000000000 10577318a7fb7d14 00000000 7743fa03
# group 00000000000000000000 00000000000000000001 000000000014 e8c40ea3 be34fade
WRITE [(a,1)]
# group 00000000000000000001 00000000000000000002 000000000016 daf108dc 601e7e83
WRITE [(b,"2")]
"""
}
SNAPSHOT = {
    "0000000002.snapshot": b"""\
# kvs snapshot 1 0000000002 00000000000000000001 912eb249ecb738e1 00000000 1ed272c9
# group 00000000000000000001 00000000000000000001 000000000022 c5f89ae9 1b6b5c38
WRITE [(a,1)(k,x"2")]
# group 00000000000000000001 00000000000000000001 000000000008 22f7fc91 cdb27383
# end 2
""",
    "0000000002.journal": b"""\
# kvs journal 1 0000000002 00000000000000000001 912eb249ecb738e1 d6098b06 01d5ea8f
# group 00000000000000000001 00000000000000000002 000000000014 8c2f8de1 6700b645
WRITE [(c,3)]
""",
}
QUOTED_SNAPSHOT = {
    "0000000002.snapshot": b"""\
# kvs snapshot 1 0000000002 00000000000000000001 51e90f7abfe79d0b 00000000 aa12ac6c
# group 00000000000000000001 00000000000000000001 000000000020 4786a54a c9a1c4a8
WRITE [(a,1)("k,2)]
# group 00000000000000000001 00000000000000000001 000000000008 22f7fc91 9e6ad350
# end 2
""",
    "0000000002.journal": b"""\
# kvs journal 1 0000000002 00000000000000000001 51e90f7abfe79d0b 04c31396 47e91ab9
""",
}


def test_segment_of_version_1_is_read_and_stays(tmp_path: Path) -> None:
    put(tmp_path / "d", PLAIN)
    assert read(tmp_path / "d")[1] == {b"a": b"1", b"c": b"3"}
    assert maintenance.check(tmp_path / "d").revision == 3
    assert maintenance.load(tmp_path / "d").items() == [(b"a", b"1"), (b"c", b"3")]
    assert contents(tmp_path / "d") == PLAIN


@pytest.mark.parametrize(("made", "revision"), [(PLAIN, 3), (SNAPSHOT, 2)])
def test_segment_of_version_2_follows(tmp_path: Path, made: Files, revision: int) -> None:
    with StoreCore(put(tmp_path / "d", made)) as store:
        before = store.items()
        assert store.after_commit(store.execute(b"WRITE [(d,4)]\n")).revision == revision + 1
    left = contents(tmp_path / "d")
    added = (left.keys() - made.keys()) - {".kvs.lock"}
    assert {name: left[name] for name in made} == made
    [name] = added
    assert left[name].startswith(b"# kvs journal 2 ")
    for _ in range(2):
        with StoreCore(tmp_path / "d") as store:
            assert store.items() == sorted([*before, (b"d", b"4")])
    assert contents(tmp_path / "d").keys() == left.keys()


def test_compaction_ends_version_1(tmp_path: Path) -> None:
    with StoreCore(put(tmp_path / "d", SNAPSHOT)) as store:
        store.compact()
    left = contents(tmp_path / "d")
    assert all(b" 2 " in data[:20] for name, data in left.items() if name[0] == "0")
    assert read(tmp_path / "d")[1] == {b"a": b"1", b"k": b'x"2"', b"c": b"3"}


@pytest.mark.parametrize(
    ("made", "name", "line"),
    [
        (QUOTED, "0000000001.journal", b'WRITE [(b,"2")]'),
        (QUOTED_SNAPSHOT, "0000000002.snapshot", b'WRITE [(a,1)("k'),
    ],
)
def test_word_that_begins_with_a_quote_is_refused(
    tmp_path: Path, made: Files, name: str, line: bytes
) -> None:
    put(tmp_path / "d", made)
    for act in (StoreCore, maintenance.check, maintenance.repair):
        with pytest.raises(DataDirectoryError) as caught:
            act(tmp_path / "d")
        assert str(caught.value) == (
            f"{tmp_path}/d/{name}: at byte {made[name].index(line)}: a word of this line begins "
            "with '\"', which has another meaning since version 2 of the format; write all pairs "
            "with 'kvs dump' of the kvs that wrote it, quote such words, and use 'kvs restore'"
        )
    left = contents(tmp_path / "d")
    left.pop(".kvs.lock", None)
    assert left == made


def test_each_segment_has_a_version_of_its_own(tmp_path: Path) -> None:
    """Both are read by their own headers, whatever the order."""
    first = JournalBuilder(version=1).group(b"WRITE [(a,1)]\n", 1)
    second = JournalBuilder(number=2, revision=1, previous=first.chain)
    second.group(b'WRITE [(b,"2")]\n', 1)
    state, _ = read(put(tmp_path / "d", files(first, second)))
    assert (state.version, state.revision) == (2, 2)

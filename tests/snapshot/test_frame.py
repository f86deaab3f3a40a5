"""The frame of a backup, to the byte."""

from kvs.snapshot import reader
from kvs.snapshot.frame import End, framed
from kvs.snapshot.reader import START_OF_FRAME
from tests.journal.builders import crc


def test_frame_has_exact_bytes() -> None:
    before = b"# kvs backup 2\n(a, 1)\n(b, 2)\n"
    blocks = framed(17, 2, [b"(a, 1)\n", b"(b, 2)\n"])
    assert b"".join(blocks) == before + b"# end 17 2 %08x\n" % crc(before)
    assert START_OF_FRAME == reader.START_OF_FRAME


def test_last_line_round_trip() -> None:
    end = End(0, 10**9, 0xBEEF)
    assert End.decode(end.encode()) == end
    for line in (b"# end 1 1 0000beef", b"# end 01 1 0000beef\n", b"# end 1 1 BEEFBEEF\n", b""):
        assert End.decode(line) is None

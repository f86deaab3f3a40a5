"""Golden files of data directories, and the checksums that they are made of."""

from collections.abc import Sequence

GOLDEN_JOURNAL = b"""\
# kvs journal 1 0000000001 00000000000000000000 b8712b87be9666aa 00000000 4260922a
# group 00000000000000000000 00000000000000000001 000000000019 2bcbaed8 9b6093e3
WRITE [(a,1)(b,2)]
# group 00000000000000000001 00000000000000000002 000000000022 65b091ca efdcb3b4
WRITE [ (c,3)(a,(()\t]
# group 00000000000000000002 00000000000000000003 000000000015 c2d4ed28 6ed357d1
DELETE [b, zz]
"""
GOLDEN_GROUPS = [
    (0, 1, b"WRITE [(a,1)(b,2)]\n"),
    (1, 2, b"WRITE [ (c,3)(a,(()\t]\n"),
    (2, 3, b"DELETE [b, zz]\n"),
]
MARK = b"b8712b87be9666aa"

GOLDEN_SNAPSHOT = b"""\
# kvs snapshot 1 0000000002 00000000000000000002 2be672ba3aa52367 00000000 2b51d08f
# group 00000000000000000002 00000000000000000002 000000000300 9e6e714a 687789d9
# job 1 is 73746f636b 3493624254285417384 2277458 3493624254285417384 2277475 68 1795943316508565711
# job 1 wrote 1
# job 1 from 68 0 32
# job 1 done
# job 2 is 74776f 3493624254285417384 2277458 3493624254285417384 2277714 23 1795943316622657486
# job 2 from 23 0 39
# job 2 done
WRITE [(pump,14)]
# group 00000000000000000002 00000000000000000002 000000000008 16105408 818aa6f8
# end 1
"""
GOLDEN_SEGMENT = (
    b"# kvs journal 1 0000000002 00000000000000000002 2be672ba3aa52367 10b7b271 77f73966\n"
)
SEGMENT, SNAPSHOT = "0000000001.journal", "0000000002.snapshot"
SECOND_SEGMENT = "0000000002.journal"
THIRD_SEGMENT, THIRD_SNAPSHOT = "0000000003.journal", "0000000003.snapshot"


def crc32c(data: bytes, start: int = 0) -> int:
    """Return the CRC-32C of `data` (RFC 3720, appendix B.4), continued from `start`."""
    crc = start ^ 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def sealed(start: bytes, chain: int = 0) -> tuple[bytes, int]:
    """Return a line with its checksum at the end, and the checksum."""
    checksum = crc32c(start, chain)
    return start + b"%08x\n" % checksum, checksum


def journal_file(
    head: bytes, *groups: tuple[int, int, bytes], times: Sequence[bytes] = ()
) -> bytes:
    """Return a file: its head without the checksum, then groups (before, after, lines).

    `times` are those of the groups, as version 2 of the format has them.
    """
    data, chain = sealed(head)
    for number, (before, after, body) in enumerate(groups):
        start = b"# group %020d %020d %012d " % (before, after, len(body))
        start += times[number] + b" " if times else b""
        start += b"%08x " % crc32c(body)
        line, chain = sealed(start, chain)
        data += line + body
    return data


def journal_head(mark: bytes, version: int = 2) -> bytes:
    return b"# kvs journal %d 0000000001 00000000000000000000 %b 00000000 " % (version, mark)

"""Connects are found between any other bytes, in pieces of any size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvs.protocol.frames import CONNECT_BYTES, Connect, Dialect
from kvs.protocol.registration import INCOMPLETE, NOT_A_CONNECT, ConnectParser, Refused
from tests.protocol.pieces import cut, cut_everywhere

KNOWN = [Connect(b"/%dq" % n, b"/%dr" % n + b"x" * 30, b"/%dn" % n) for n in range(4)]


DIGITS = [Connect(*known.paths, dialect=Dialect.DIGITS) for known in KNOWN]


def known(connect: Connect) -> Connect:
    if connect not in KNOWN + DIGITS:
        raise Refused(lambda: "unknown")
    return connect


def ignore(_data: bytes, _reason: str) -> None:
    """Do nothing."""


def found(pieces: list[bytes]) -> list[Connect]:
    """Return the connects found if only the pipes of `KNOWN` are acceptable."""
    registration = ConnectParser(known, ignore)
    return [connect for piece in pieces for connect in registration.feed(piece)]


def test_connects_cut_at_every_byte_are_found() -> None:
    garbage = b"\x01" + bytes(3) + b"\x01/x\0" + KNOWN[3].encode()[:60]
    stream = KNOWN[0].encode() + garbage + KNOWN[1].encode() + KNOWN[2].encode()
    for pieces in cut_everywhere(stream):
        assert found(pieces) == KNOWN[:3]


@pytest.mark.parametrize("length", range(1, 121))
def test_cut_off_connect_never_hides_the_next_one(length: int) -> None:
    """Here every combination of the pipes of both connects is acceptable."""
    first, second = KNOWN[0], KNOWN[1]
    good = {*first.paths, *second.paths}

    def accept(connect: Connect) -> Connect:
        if len(good & set(connect.paths)) < 3:
            raise Refused(lambda: "unknown")
        return connect

    registration = ConnectParser(accept, ignore)
    stream = first.encode()[:length] + second.encode() + second.encode()
    whole = length > 81 + len(first.notifications)
    assert registration.feed(stream) == [*([first] if whole else []), second, second]
    for pieces in cut_everywhere(first.encode()[:length] + second.encode()):
        assert found(pieces) == [*([first] if whole else []), second]


garbage = st.one_of(
    st.just(b""),
    st.binary(max_size=300),
    st.integers(1, 300).map(lambda count: b"\x01" * count),
    st.integers(1, 300).map(lambda count: b"1" * count),
    st.text("1\x01/\0", max_size=300).map(str.encode),
    # The beginnings of frames, up to where the third path is not there as a whole: what has all
    # three paths is a connect, whatever stands behind them.
    st.builds(
        lambda known, length: known.encode()[:length],
        st.sampled_from(KNOWN + DIGITS),
        st.integers(0, 84),
    ),
    st.builds(
        lambda a, b, c: Connect(a, b, c).encode(),
        *(st.binary(min_size=1, max_size=40).map(lambda raw: raw.replace(b"\0", b"/")),) * 3,
    ),
)


@given(
    st.lists(st.tuples(garbage, st.sampled_from(KNOWN + DIGITS)), max_size=5), garbage, st.data()
)
def test_no_connect_is_lost_in_garbage(
    sent: list[tuple[bytes, Connect]], end: bytes, data: st.DataObject
) -> None:
    stream = b"".join(noise + connect.encode() for noise, connect in sent) + end
    assert found(data.draw(cut(stream))) == [connect for _, connect in sent]


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_buffer_is_shorter_than_a_frame(pieces: list[bytes]) -> None:
    registration: ConnectParser[Connect] = ConnectParser(known, ignore)
    for piece in pieces:
        assert registration.feed(piece) == []
        assert len(registration._buffer) < 121


def test_each_candidate_is_validated_once() -> None:
    judged: list[Connect] = []
    registration: ConnectParser[None] = ConnectParser(judged.append, ignore)
    stream = KNOWN[0].encode() + KNOWN[1].encode()
    for at in range(len(stream)):
        registration.feed(stream[at : at + 1])
    assert judged == KNOWN[:2]


@pytest.mark.parametrize("garbage", [b"1", b"\x01", b"1/x\0", b"1/1"])
def test_candidates_never_outnumber_the_bytes_fed(garbage: bytes) -> None:
    judged: list[Connect] = []

    def accept(connect: Connect) -> None:
        judged.append(connect)
        raise Refused(lambda: "unknown")

    registration = ConnectParser(accept, ignore)
    for _ in range(100):
        registration.feed(garbage * 100)
    assert len(judged) <= 100 * 100 * len(garbage)
    assert len(registration._buffer) < CONNECT_BYTES


@pytest.mark.parametrize("kind", [Dialect.BINARY, Dialect.DIGITS])
def test_path_that_looks_like_a_connect_is_a_path(kind: Dialect) -> None:
    """The bytes from each ``1`` in its paths on also name pipes that exist."""
    paths = [b"/tmp/1/tmp/1/tmp/" + name for name in (b"req", b"res", b"not")]
    outer = Connect(*paths, dialect=kind)
    hidden = {path[at:] for path in paths for at in (6, 12)}

    def accept(connect: Connect) -> Connect:
        if connect != outer and not hidden.issuperset(connect.paths):
            raise Refused(lambda: "unknown")
        return connect

    for pieces in cut_everywhere(outer.encode() + outer.encode() + bytes(10)):
        registration = ConnectParser(accept, ignore)
        assert [one for piece in pieces for one in registration.feed(piece)] == [outer, outer]


ALPHABET = b"1\x01/a\0"


def naive(pieces: list[bytes], good: set[bytes]) -> list[Connect]:
    """Return the connects in the whole stream, found byte by byte without other state."""
    stream = b"".join(pieces)
    ends = [sum(map(len, pieces[: count + 1])) for count in range(len(pieces))]
    taken: list[tuple[int, Connect]] = []
    for at in range(len(stream) - CONNECT_BYTES + 1):
        connect = Connect.decode(stream[at : at + CONNECT_BYTES])
        own: set[int] = set()
        third = 0
        if taken:
            start, last = taken[-1]
            for field, path in enumerate(last.paths):
                own |= {start + 1 + 40 * field + offset for offset in range(len(path))}
            third = start + 81 + len(last.notifications)
        if connect is None or at in own or not is_good(connect, good):
            continue
        if taken and at < third:
            before, now = (
                next(count for count, end in enumerate(ends) if place + CONNECT_BYTES <= end)
                for place in (taken[-1][0], at)
            )
            if before == now:  # else it has been handed out already
                taken.pop()
        taken.append((at, connect))
    return [connect for _, connect in taken]


def is_good(connect: Connect, good: set[bytes]) -> bool:
    return len(set(connect.paths)) == 3 and good.issuperset(connect.paths)


short = st.binary(min_size=1, max_size=5).map(
    lambda raw: bytes(ALPHABET[byte % 4] for byte in raw)  # no NUL
)
frames_of_short = st.builds(
    lambda paths, kind, length: Connect(*paths, dialect=kind).encode()[:length],
    st.lists(short, min_size=3, max_size=3),
    st.sampled_from(Dialect),
    st.sampled_from([121] * 4 + [*range(1, 121)]),
)
noise = st.binary(max_size=60).map(lambda raw: bytes(ALPHABET[byte % 5] for byte in raw))


@given(st.lists(st.one_of(frames_of_short, noise), max_size=8), st.sets(short), st.data())
def test_connects_of_both_dialects_match_a_naive_parser(
    parts: list[bytes], good: set[bytes], data: st.DataObject
) -> None:
    stream = b"".join(parts)
    # Half of all that a frame could name is there, so frames within frames are, too.
    fields = {stream[at : at + 40].partition(b"\0")[0] for at in range(len(stream))}
    good |= data.draw(st.sets(st.sampled_from(sorted(fields)))) if fields else set()
    pieces = data.draw(cut(stream))

    def accept(connect: Connect) -> Connect:
        if not is_good(connect, good):
            raise Refused(lambda: "unknown")
        return connect

    registration = ConnectParser(accept, ignore)
    assert [one for piece in pieces for one in registration.feed(piece)] == naive(pieces, good)


def skipped(pieces: list[bytes]) -> list[tuple[bytes, str]]:
    """Return the bytes reported as skipped, joined where the reason is the same."""
    reported: list[tuple[bytes, str]] = []

    def report(data: bytes, reason: str) -> None:
        reported.append((data, reason))

    registration = ConnectParser(known, report)
    for piece in pieces:
        registration.feed(piece)
    registration.report_incomplete()
    return reported


def test_refused_connect_is_reported_once_with_its_bytes() -> None:
    other = Connect(b"/1\x01x", b"/2", b"/3").encode()
    stream = other + KNOWN[0].encode() + other
    assert skipped([stream]) == [(other, "unknown")] * 2
    for pieces in cut_everywhere(stream):
        assert skipped(pieces) == [(other, "unknown")] * 2


def test_bytes_that_are_not_a_connect_are_reported() -> None:
    text = b"connect /a /b /c\n"
    assert skipped([text]) == [(text, NOT_A_CONNECT)]
    assert skipped([KNOWN[0].encode() + text + KNOWN[1].encode()]) == [(text, NOT_A_CONNECT)]
    assert skipped([KNOWN[0].encode()]) == []


def test_incomplete_connect_is_reported_and_can_be_completed() -> None:
    reported: list[tuple[bytes, str]] = []
    registration = ConnectParser(known, lambda data, reason: reported.append((data, reason)))
    frame = KNOWN[0].encode()
    assert registration.feed(frame[:60]) == []
    assert registration.is_incomplete
    for _ in range(2):
        registration.report_incomplete()
    assert not registration.is_incomplete
    assert registration.feed(frame[60:]) == [KNOWN[0]]
    assert reported == [(frame[:60], INCOMPLETE)]


@given(st.lists(garbage, max_size=5), st.data())
def test_every_garbage_byte_is_reported_once(noise: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(noise)
    if not found([stream]):
        reported = skipped(data.draw(cut(stream)))
        assert b"".join(piece for piece, _ in reported) == stream

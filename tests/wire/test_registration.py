"""Good connects are found whatever stands between them, and cut anyhow."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvs.wire.frames import Connect
from kvs.wire.registration import INCOMPLETE, NOT_A_CONNECT, Refused, Registration
from tests.wire.pieces import cut, cut_everywhere

KNOWN = [Connect(b"/%dq" % n, b"/%dr" % n + b"x" * 30, b"/%dn" % n) for n in range(4)]


def known(connect: Connect) -> Connect:
    if connect not in KNOWN:
        raise Refused(lambda: "unknown")
    return connect


def found(pieces: list[bytes]) -> list[Connect]:
    """Return what is found where only the pipes of `KNOWN` are acceptable."""
    registration = Registration(known)
    return [connect for piece in pieces for connect in registration.feed(piece)]


def test_connects_cut_at_every_place() -> None:
    garbage = b"\x01" + bytes(3) + b"\x01/x\0" + KNOWN[3].encode()[:60]
    stream = KNOWN[0].encode() + garbage + KNOWN[1].encode() + KNOWN[2].encode()
    for pieces in cut_everywhere(stream):
        assert found(pieces) == KNOWN[:3]


@pytest.mark.parametrize("length", range(1, 121))
def test_one_that_is_cut_off_never_takes_the_next_with_it(length: int) -> None:
    """Whatever it names then: here every pipe of the two is acceptable beside any other."""
    first, second = KNOWN[0], KNOWN[1]
    good = {*first.paths, *second.paths}

    def accept(connect: Connect) -> Connect:
        if len(good & set(connect.paths)) < 3:
            raise Refused(lambda: "unknown")
        return connect

    registration = Registration(accept)
    stream = first.encode()[:length] + second.encode() + second.encode()
    whole = length > 81 + len(first.notifications)
    assert registration.feed(stream) == [*([first] if whole else []), second, second]
    for pieces in cut_everywhere(first.encode()[:length] + second.encode()):
        assert found(pieces) == [*([first] if whole else []), second]


garbage = st.one_of(
    st.just(b""),
    st.binary(max_size=300),
    st.integers(1, 300).map(lambda count: b"\x01" * count),
    # The beginnings of frames, up to where the third path is not there as a whole: what has all
    # three paths is a connect, whatever stands behind them.
    st.builds(
        lambda known, length: known.encode()[:length], st.sampled_from(KNOWN), st.integers(0, 84)
    ),
    st.builds(
        lambda a, b, c: Connect(a, b, c).encode(),
        *(st.binary(min_size=1, max_size=40).map(lambda raw: raw.replace(b"\0", b"/")),) * 3,
    ),
)


@given(st.lists(st.tuples(garbage, st.sampled_from(KNOWN)), max_size=5), garbage, st.data())
def test_no_good_connect_is_lost_in_garbage(
    sent: list[tuple[bytes, Connect]], end: bytes, data: st.DataObject
) -> None:
    stream = b"".join(noise + connect.encode() for noise, connect in sent) + end
    assert found(data.draw(cut(stream))) == [connect for _, connect in sent]


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_what_is_kept_is_less_than_a_frame(pieces: list[bytes]) -> None:
    registration: Registration[Connect] = Registration(known)
    for piece in pieces:
        assert registration.feed(piece) == []
        assert len(registration._rest) < 121


def test_each_candidate_is_judged_once() -> None:
    judged: list[Connect] = []
    registration: Registration[None] = Registration(judged.append)
    stream = KNOWN[0].encode() + KNOWN[1].encode()
    for at in range(len(stream)):
        registration.feed(stream[at : at + 1])
    assert judged == KNOWN[:2]


def passed_over(pieces: list[bytes]) -> list[tuple[bytes, str]]:
    """Return what is reported to be passed over, joined where the reason is the same."""
    reported: list[tuple[bytes, str]] = []

    def report(data: bytes, reason: str) -> None:
        reported.append((data, reason))

    registration = Registration(known, report)
    for piece in pieces:
        registration.feed(piece)
    registration.report_incomplete()
    return reported


def test_a_refused_connect_is_reported_once_with_its_bytes() -> None:
    other = Connect(b"/1\x01x", b"/2", b"/3").encode()
    stream = other + KNOWN[0].encode() + other
    assert passed_over([stream]) == [(other, "unknown")] * 2
    for pieces in cut_everywhere(stream):
        assert passed_over(pieces) == [(other, "unknown")] * 2


def test_what_is_no_connect_is_reported() -> None:
    text = b"connect /a /b /c\n"
    assert passed_over([text]) == [(text, NOT_A_CONNECT)]
    assert passed_over([KNOWN[0].encode() + text + KNOWN[1].encode()]) == [(text, NOT_A_CONNECT)]
    assert passed_over([KNOWN[0].encode()]) == []


def test_an_incomplete_connect_is_reported_once_and_may_still_be_completed() -> None:
    reported: list[tuple[bytes, str]] = []
    registration = Registration(known, lambda data, reason: reported.append((data, reason)))
    frame = KNOWN[0].encode()
    assert registration.feed(frame[:60]) == []
    assert registration.is_incomplete
    for _ in range(2):
        registration.report_incomplete()
    assert not registration.is_incomplete
    assert registration.feed(frame[60:]) == [KNOWN[0]]
    assert reported == [(frame[:60], INCOMPLETE)]


@given(st.lists(garbage, max_size=5), st.data())
def test_every_byte_of_garbage_is_reported_once(noise: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(noise)
    if not found([stream]):
        reported = passed_over(data.draw(cut(stream)))
        assert b"".join(piece for piece, _ in reported) == stream

"""Plain rendering: replies, changes, output and invalid lines, as programs parse them."""

import pytest

from kvs.cli.render import (
    MAX_SHOWN_BYTES,
    PlainRenderer,
    change_line,
    reply_line,
    terminal_line,
)
from kvs.protocol import frames
from kvs.protocol.replies import Reply
from kvs.store.watch import Change


@pytest.mark.parametrize(
    ("reply", "line"),
    [
        (Reply(frames.SUBSCRIBE, 1), "Server returned 1 for operation: subscribe\n"),
        (Reply(frames.DISCONNECT, 0), "Server returned 0 for operation: disconnect\n"),
        (Reply(200, 7), "Server returned 7 for operation: 200\n"),
    ],
)
def test_reply_line_names_the_operation(reply: Reply, line: str) -> None:
    assert reply_line(reply) == line


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (Change(b"k", b"v"), b"(k,v)\n"),
        (Change(b"k", None), b"(k,DELETED)\n"),
        (Change(b"two words", b""), b'("two words","")\n'),
        (Change(b"k", b"KVSERROR"), b'(k,"KVSERROR")\n'),
        (Change(b"\xff", b'"\n'), b'(\xff,"\\"\\n")\n'),
    ],
)
def test_change_is_shown_in_canonical_spelling(change: Change, line: bytes) -> None:
    assert change_line(change) == line


def test_long_words_are_shortened_on_a_terminal_only(capfd: pytest.CaptureFixture[str]) -> None:
    long = 1_048_576 * b"v"
    line = b'[(a,%b)(b,"%b ")("%b",KVSERROR)(c,3)]' % (long, long, long[:500])
    start = MAX_SHOWN_BYTES * "v"
    assert terminal_line(line) == (
        f'[(a,{start}... (1,048,576 bytes))(b,"{start[1:]}... (1,048,577 bytes))'
        f'("{start[1:]}... (500 bytes),KVSERROR)(c,3)]'
    )
    assert terminal_line(b"(a, %b)" % long) == f"(a, {start}... (1,048,576 bytes))"
    PlainRenderer().show_output(line + b"\n")
    assert capfd.readouterr().out.encode() == line + b"\n"


def test_terminal_line_is_printable_and_keeps_backslashes() -> None:
    assert terminal_line(b'[("\\"\x1b\xff",\\x)]') == '[("\\"\\x1b\\xff",\\x)]'
    assert terminal_line(b'[(((,[)(k,a"b)]') == '[(((,[)(k,a"b)]'
    assert terminal_line(b"no pairs") == "no pairs"


def test_results_are_on_stdout_unchanged(capfd: pytest.CaptureFixture[str]) -> None:
    renderer = PlainRenderer()
    renderer.show_output(b"[(k,\xc3\xa9)]\n")
    renderer.show_changes([Change(b"k", b"v"), Change(b"l", None)])
    renderer.show_changes([])
    renderer.show_reply(Reply(frames.UNSUBSCRIBE, 0))
    assert capfd.readouterr() == (
        "[(k,é)]\n(k,v)\n(l,DELETED)\nServer returned 0 for operation: unsubscribe\n",
        "",
    )


def test_invalid_line_is_on_stderr_with_its_position(capfd: pytest.CaptureFixture[str]) -> None:
    PlainRenderer().show_error(b"READ k\n", 3, 6, "expected '['")
    assert capfd.readouterr() == ("", "stdin:3:6: expected '['\n")

"""Plain rendering: replies, changes, output and invalid lines, as programs parse them."""

import pytest

from kvs.cli.render import PlainRenderer, reply_line, shown_value
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


def test_value_of_a_removed_key_is_shown_as_deleted() -> None:
    assert shown_value(Change(b"k", None)) == b"DELETED"
    assert shown_value(Change(b"k", b"v")) == b"v"


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

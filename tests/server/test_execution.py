"""A script executed in slices gives the same reply as all its lines executed at once."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvs.engine.interface import ExecuteResult, StopReason
from kvs.library import Store
from kvs.protocol import frames
from kvs.protocol.requests import Execute
from kvs.server import execution as scripts
from kvs.server.execution import BLOCK_BYTES, Blocks, ScriptExecution
from tests.strategies import scripts as any_scripts

pytestmark = pytest.mark.usefixtures("each_engine")

TABLE = {f"key{number:03}": "v" * 30 for number in range(100)}
SHOWN = 41 * 100
"""Bytes that SHOW writes for that table."""


def reply_of(script: ScriptExecution) -> tuple[int, bytes, bytes]:
    head, *rest = script.reply()
    result, output, errors = frames.decode_execute_reply_header(bytes(head))
    text = b"".join(rest)
    assert len(text) == output + errors == script.size
    return result, text[:output], text[output:]


def run(script: ScriptExecution) -> list[ExecuteResult]:
    """Run the script to its end; return the slices."""
    slices = []
    while not script.is_finished:
        script.prepare()
        before = script.size
        needs = script.required
        result = script.run_slice(1 << 28)
        assert result is not None
        slices.append(result)
        assert script.is_finished or script.size <= max(needs, before + 200_000)
    return slices


def execution(text: bytes, store: Store, total: int = 1 << 28) -> ScriptExecution:
    return ScriptExecution(Execute(text), store._core, total)


def run_text(text: bytes, store: Store, total: int = 1 << 28) -> tuple[int, bytes, bytes]:
    script = execution(text, store, total)
    run(script)
    return reply_of(script)


@given(st.lists(any_scripts(), max_size=4), st.sampled_from([1, 7, 60, 4096]))
@example([b"WRITE [(a,a)]\nnonsense\n  BACKUP\nBACKUP 1\nSHOW"], 1)
@example([b"BACKUP"], 60)
def test_slices_of_any_size_give_the_same_reply(texts: list[bytes], size: int) -> None:
    text = b"\n".join(texts)
    expected, sliced = Store(), Store()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scripts, "FIRST_SLICE_BYTES", size)
        patch.setattr(scripts, "SLICE_BYTES", size)
        patch.setattr(scripts, "SHORT_BYTES", 0)
        result, output, errors = run_text(text, sliced)
    pauses = [expected.execute(text, budget=len(text) + (1 << 20))]
    while pauses[-1].reason is not StopReason.END:
        pauses.append(expected.execute(text, pauses[-1].offset, len(text) + (1 << 20)))
    assert output == b"".join(pause.output for pause in pauses)
    assert errors == b"".join(error for pause in pauses for error in reported(text, pause))
    assert result == bool(errors)
    assert sliced.items() == expected.items()
    assert sliced.revision == expected.revision


def reported(text: bytes, pause: ExecuteResult) -> list[bytes]:
    """Return the errors of a session for a script that was executed in one call."""
    found = [(f.offset, f.column, f.reason) for f in pause.diagnostics]
    if pause.reason is StopReason.BACKUP:
        begin = text.rfind(b"\n", 0, pause.offset - 1) + 1
        column = text.index(b"B", begin) - begin + 1
        found.append((begin, column, "BACKUP belongs to a job, not to a session"))
    return [
        b"%d:%d: %b\n" % (text.count(b"\n", 0, offset) + 1, column, reason.encode())
        for offset, column, reason in found
    ]


def test_show_line_is_its_own_slice() -> None:
    store = Store()
    script = execution(b"#SHOW\n" + b"\n" * 1_000_000 + b"READ [SHOW]\nSHOW", store)
    slices = run(script)
    assert slices[0].lines == 1
    assert [each.lines for each in slices[-2:]] == [1, 1]
    assert len(slices) < 300
    assert reply_of(script) == (0, b"[(SHOW,KVSERROR)]\n", b"")


def test_long_line_is_its_own_slice() -> None:
    long = b"READ [" + b"a," * 5000 + b"a]\n"
    text = b"WRITE [(a,1)]\n" * 10 + long + b"WRITE [(a,2)]\n" * 10 + long
    script = execution(text, Store())
    slices = run(script)
    assert [each.lines for each in slices] == [10, 1, 10, 1]
    assert script.required >= script.size


def test_slices_shrink_at_invalid_lines_and_grow_otherwise() -> None:
    script = execution(b"x\n" * 2000 + b"# valid\n" * 20_000, Store())
    lines = [each.lines for each in run(script)]
    assert max(lines[:15]) <= 130
    assert max(lines) > 500


def test_estimate_covers_the_output_of_long_lines_and_show() -> None:
    store = Store()
    store.write({"a": "v" * 40, **TABLE})
    for text in (b"READ [" + b"a," * 50_000 + b"a]\n", b"SHOW\n" * 300):
        script = execution(text, store)
        while not script.is_finished:
            script.prepare()
            needs = script.required
            script.run_slice(1 << 28)
            assert script.size <= needs
        assert needs < 3 * script.size


def test_reply_over_the_total_stops_the_script_at_that_command() -> None:
    store = Store()
    store.write(TABLE)
    text = b"SHOW\nREAD [key000]\n" * 9 + b"WRITE [(z,1)]\n"
    result, output, errors = run_text(text, store, 4 * SHOWN)
    assert result == 1
    assert output.count(b"(key099") == 3
    assert output.count(b"[(key000") == 3
    assert errors == (
        b"7:1: the reply would be longer than the %d bytes of all replies; "
        b"the script stops here\n" % (4 * SHOWN)
    )
    assert b"z" not in store


def test_output_over_the_reserved_memory_is_held_back() -> None:
    store = Store()
    store.write({"a": "v" * 100_000})
    script = execution(b"READ [b]\nREAD [a]\n", store)
    script.prepare()
    assert script.required < 100_000
    assert script.run_slice(script.required) is not None
    held_back = script.held_back_bytes
    assert held_back == len(b"[(a,)]\n[(b,KVSERROR)]\n") + 100_000
    assert (script.size, script.is_finished) == (0, False)
    script.prepare()
    assert (script.required, script.is_next_long) == (held_back, True)
    assert script.run_slice(script.required) is None
    assert (script.size, script.held_back_bytes, script.is_finished) == (held_back, 0, True)
    assert reply_of(script)[1].startswith(b"[(b,KVSERROR)]\n[(a,v")


def test_output_held_back_is_dropped_if_the_script_is_stopped() -> None:
    store = Store()
    store.write({"a": "v" * 100_000})
    script = execution(b"READ [b]\nREAD [a]\n#", store)
    script.is_short = False
    script.prepare()
    script.run_slice(1000)
    script.stop("no memory")
    assert script.is_finished
    assert reply_of(script) == (1, b"", b"2:1: no memory; the script stops here\n")


@pytest.mark.parametrize("line", [b"SHOW", b"COUNT [a]", b"CLEAR [a]", b"EXPIRE 1"])
def test_command_that_walks_the_table_is_its_own_slice(line: bytes) -> None:
    script = execution(b"READ [a]\nREAD [b]\n%b\nREAD [c]\n" % line, Store())
    assert not script.is_medium
    assert [each.lines for each in run(script)] == [2, 1, 1]


def test_errors_count_like_output() -> None:
    result, output, errors = run_text(b"x\n" * 100_000, Store(), 100_000)
    assert result == 1
    assert output == b""
    assert 99_000 < len(errors) < 101_000
    assert errors.endswith(b"the script stops here\n")


def test_blocks_are_few_and_hold_everything() -> None:
    blocks = Blocks()
    whole = b""
    for size in (0, 10, BLOCK_BYTES, 20, BLOCK_BYTES - 1, 2 * BLOCK_BYTES, 1):
        blocks.add(b"x" * size)
        whole += b"x" * size
    assert b"".join(blocks.blocks) == whole
    assert blocks.size == len(whole)
    assert [len(block) for block in blocks.blocks] == [
        10,
        BLOCK_BYTES,
        BLOCK_BYTES + 19,
        2 * BLOCK_BYTES,
        1,
    ]

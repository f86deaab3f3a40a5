"""A script as a session sends it, and its answer. Pure."""

from kvs.errors import RequestFailed, ScriptTooLong, shown
from kvs.language.builder import encoded
from kvs.protocol.frames import SCRIPT_BYTES
from kvs.protocol.replies import Executed


def script_bytes(script: str | bytes) -> bytes:
    """Return a script as it is sent.

    Raises:
        ScriptTooLong: a server would refuse it.

    """
    raw = encoded(script)
    if len(raw) > SCRIPT_BYTES:
        raise ScriptTooLong(len(raw), SCRIPT_BYTES)
    return raw


def output_of(executed: Executed) -> bytes:
    """Return the output of a script that was valid when it was sent.

    Raises:
        RequestFailed: the server did not carry it out.

    """
    if executed.result:
        raise RequestFailed(shown(executed.errors.removesuffix(b"\n")))
    return executed.output

"""A script as a session sends it, and its answer. Pure."""

from kvs.errors import RequestRejectedError, ScriptTooLargeError
from kvs.language.builder import encode_script
from kvs.protocol.frames import MAX_SCRIPT_BYTES
from kvs.protocol.replies import ExecuteReply
from kvs.text import printable


def validate_script(script: str | bytes) -> bytes:
    """Return a script as it is sent.

    Raises:
        ScriptTooLargeError: a server would refuse it.

    """
    raw = encode_script(script)
    if len(raw) > MAX_SCRIPT_BYTES:
        raise ScriptTooLargeError(len(raw), MAX_SCRIPT_BYTES)
    return raw


def require_success(executed: ExecuteReply) -> bytes:
    """Return the output of a script that was valid when it was sent.

    Raises:
        RequestRejectedError: the server did not carry it out.

    """
    if executed.result:
        raise RequestRejectedError(printable(executed.errors.removesuffix(b"\n")))
    return executed.output

"""A session with a server, for programs: threads and asyncio."""

import os
import weakref
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Self

from kvs.client.commands import unsubscribable_reason
from kvs.client.conversation import Request
from kvs.client.handshake import Path, connect_transport
from kvs.client.multiplexer import RequestMultiplexer
from kvs.concurrency.resources import NonCopyable, warn_unclosed
from kvs.errors import (
    MAX_KEY_SHOWN_BYTES,
    InvalidWordError,
    RequestRejectedError,
    ScriptTooLargeError,
)
from kvs.language import builder
from kvs.language.builder import Word
from kvs.language.diagnostics import validate_word
from kvs.protocol.frames import MAX_SCRIPT_BYTES
from kvs.protocol.replies import ExecuteReply
from kvs.protocol.requests import Execute, Subscribe, Unsubscribe
from kvs.store.watch import Change
from kvs.text import printable


def connect(
    fifo: Path,
    *,
    id: str | None = None,  # noqa: A002
    timeout: float | None = 30.0,
) -> "Session":
    """Connect to the server whose registration pipe is `fifo`.

    `id` names the client and its pipes; an ID that another client uses is refused. Blocks for at
    most `timeout` seconds (None: no limit; a server at its maximum of sessions lets clients wait).

    Raises:
        ServerNotFoundError: no server reads `fifo`, or the server exited before it answered.
        ConnectTimeoutError: the server did not answer within `timeout` seconds.
        ConnectRejectedError: the server rejected the connect.
        SessionClosedError: the server closed the pipes before it answered.
        InvalidClientIdError: `id` is not a valid ID.
        ClientIdInUseError: another client uses the ID.
        PipeDirectoryError: the pipes could not be created.

    """
    return Session(RequestMultiplexer(connect_transport(fifo, id, timeout)))


class Session(NonCopyable):
    """A session with a server; a context manager that closes it at the end.

    Threads: every method may be called from any thread, and blocks until the server replies.
    Requests are answered in the order in which they were sent.

    A value that does not fit a notification, because it is longer than 40 bytes or has a NUL byte,
    arrives as ``CHANGED``: read the key. Changes of subscribed keys are buffered until they are
    taken, about 200 bytes each, while a call waits for a reply; with more than 1,048,576 of them
    the session ends. While no call waits they stay with the server, which disconnects slow
    consumers.

    Signals: every method may also be called from a signal handler or a finalizer, in the middle of
    another call of the same thread, and an exception that a signal handler raises leaves the
    session usable. An interrupted request is sent whole or not at all, and its reply is dropped. A
    change that a call had just taken when it was interrupted is lost.

    Forks: in a forked child `close` only frees the child's memory, and every other method raises
    `InheritedByForkError`. The garbage collector closes a session that is dropped without `close`,
    with a `ResourceWarning` and without a disconnect.

    After the server has ended the session, the changes that arrived before can still be taken; then
    every method but `close` raises `SessionClosedError`.
    """

    def __init__(self, multiplexer: RequestMultiplexer) -> None:
        self._multiplexer = multiplexer
        self._finalizer = weakref.finalize(self, _drop, multiplexer)

    def __enter__(self) -> Self:
        self._multiplexer.check_process()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._multiplexer.closed

    # Requests.

    def subscribe(self, key: Word) -> bool:
        """Subscribe to the changes of `key`, which need not exist; return whether it exists.

        Raises:
            InvalidWordError: `key` is empty, longer than 40 bytes, or has a NUL byte.
            SessionClosedError: the session has ended.

        """
        return self._result(Subscribe(_validate_subscribed(key))) == 1

    def unsubscribe(self, key: Word) -> bool:
        """Unsubscribe from the changes of `key`; return whether it was subscribed.

        Raises:
            InvalidWordError: `key` is empty, longer than 40 bytes, or has a NUL byte.
            SessionClosedError: the session has ended.

        """
        return self._result(Unsubscribe(_validate_subscribed(key))) == 0

    def execute(self, script: str | bytes) -> ExecuteReply:
        """Execute lines of the command language; return their output and errors.

        Invalid lines raise no exception: `errors` of the reply lists them, and its `result` is 1.

        Raises:
            ScriptTooLargeError: the script is longer than 1 MiB; nothing was sent.
            SessionClosedError: the session has ended; how many lines were executed is unknown.

        """
        reply = self._multiplexer.request(Execute(_encode_script(script)))
        if not isinstance(reply, ExecuteReply):
            raise TypeError(reply)
        return reply

    def read(self, keys: Iterable[Word]) -> dict[bytes, bytes]:
        """Return the pairs of those `keys` that exist, at one instant, in ascending order of keys.

        Raises:
            InvalidWordError: a key is too long.
            ScriptTooLargeError: the command is longer than 1 MiB.
            RequestRejectedError: the server rejected the command.
            SessionClosedError: the session has ended.

        """
        self._multiplexer.check_process()
        valid_keys = builder.validate_keys(keys)
        if not valid_keys:
            return {}
        line = builder.build_keys_command(b"READ", valid_keys)
        return builder.parse_read_output(self._execute_line(line))

    def write(
        self,
        pairs: Mapping[Any, Word] | Iterable[tuple[Word, Word]],
        *,
        if_: Mapping[Any, Word | None] | None = None,
        for_: float | None = None,
    ) -> bool:
        """Set every pair of a mapping, or of an iterable of pairs, as one change.

        With `if_`, nothing is written unless each of its keys has exactly its value (None: the key
        does not exist) at that instant. With `for_`, the pairs expire after so many seconds.
        Returns whether `if_` held.

        Raises:
            InvalidWordError: a key or value is too long, an item is not a pair, or `if_` has a key
                twice, as str and as bytes; nothing was sent.
            ScriptTooLargeError: the command is longer than 1 MiB; nothing was sent.
            RequestRejectedError: the server rejected the command.
            SessionClosedError: the session has ended; whether the pairs were set is unknown.
            ValueError: `for_` is not more than 0, or more than 10**11.

        """
        self._multiplexer.check_process()
        condition = builder.encode_changes(if_ or {}, "if_ is")
        milliseconds = builder.to_milliseconds(for_)
        line = builder.build_write(pairs, condition, milliseconds)
        return not line or not builder.is_refused(self._execute_line(line))

    def add(
        self,
        numbers: Mapping[Any, int] | Iterable[tuple[Word, int]],
        *,
        for_: float | None = None,
    ) -> dict[bytes, int]:
        """Add a whole number to the value of each key, as one change; return the new values.

        A missing key counts from 0. With `for_`, the pairs expire after so many seconds; without,
        an expiry stays as it is.

        Raises:
            InvalidValueError: a value is not a number, or a sum has more than 64 bits; no number
                was added.
            InvalidWordError: a key is too long, or an item is not a pair; nothing was sent.
            ScriptTooLargeError: the command is longer than 1 MiB; nothing was sent.
            RequestRejectedError: the server rejected the command.
            SessionClosedError: the session has ended; whether the numbers were added is unknown.
            TypeError: what is to be added is not an int.
            ValueError: it has more than 64 bits, or `for_` is not more than 0, or more than
                10**11.

        """
        self._multiplexer.check_process()
        pairs = [(validate_word(key, "key"), n) for key, n in builder.iterate_pairs(numbers)]
        line = builder.build_add(pairs, builder.to_milliseconds(for_))
        return builder.parse_add_output(pairs, self._execute_line(line)) if line else {}

    def count(self, prefix: Word = b"") -> int:
        """Return the number of keys that begin with `prefix`.

        Raises:
            InvalidWordError: `prefix` is too long.
            ScriptTooLargeError: the command is longer than 1 MiB; nothing was sent.
            RequestRejectedError: the server rejected the command.
            SessionClosedError: the session has ended.

        """
        return int(self._execute_line(_build_prefix_command(b"COUNT", prefix)))

    def clear(self, prefix: Word) -> int:
        """Remove every key that begins with `prefix`, as one change; return their number.

        An empty prefix is that of every key.

        Raises:
            InvalidWordError: `prefix` is too long; nothing was sent.
            ScriptTooLargeError: the command is longer than 1 MiB; nothing was sent.
            RequestRejectedError: the server rejected the command.
            SessionClosedError: the session has ended; whether the keys were removed is unknown.

        """
        return int(self._execute_line(_build_prefix_command(b"CLEAR", prefix)))

    def items(
        self, *, prefix: Word = b"", after: Word | None = None, limit: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        """Return pairs at one instant, in ascending order of their keys.

        They are those whose keys begin with `prefix` and are greater than `after`, which need not
        exist: the first `limit` of them, or all.

        Raises:
            InvalidWordError: `prefix` or `after` is too long.
            ScriptTooLargeError: the command is longer than 1 MiB; nothing was sent.
            RequestRejectedError: the server rejected the command, or the pairs are longer than 256
                MiB: take them in parts.
            SessionClosedError: the session has ended.
            ValueError: `limit` is negative.

        """
        begin = validate_word(prefix, "prefix")
        above = None if after is None else validate_word(after, "after")
        line = builder.build_show(begin, above, limit)
        return builder.parse_show_output(self._execute_line(line))

    def delete(self, keys: Iterable[Word]) -> list[bytes]:
        """Remove `keys` as one change; return the missing ones, in ascending order.

        As in the language, a key named twice is missing the second time.

        Raises:
            InvalidWordError: a key is too long; nothing was sent.
            ScriptTooLargeError: the command is longer than 1 MiB; nothing was sent.
            RequestRejectedError: the server rejected the command.
            SessionClosedError: the session has ended; whether the keys were removed is unknown.

        """
        self._multiplexer.check_process()
        valid_keys = builder.validate_keys(keys)
        if not valid_keys:
            return []
        line = builder.build_keys_command(b"DELETE", valid_keys)
        return builder.parse_delete_output(self._execute_line(line))

    def _execute_line(self, line: bytes) -> bytes:
        """Return the output of one command.

        Raises:
            RequestRejectedError: the server did not execute the command.

        """
        reply = self.execute(line)
        if reply.result:
            raise RequestRejectedError(printable(reply.errors.removesuffix(b"\n")))
        return reply.output

    def _result(self, request: Request) -> int:
        return self._multiplexer.request(request).result

    # Changes.

    def changes(self, timeout: float | None = None) -> Iterator[Change]:
        """Yield the changes of subscribed keys as they arrive; each goes to one iterator only.

        Ends when no change has arrived for `timeout` seconds (None: no limit; 0: takes only what
        has arrived), or after the last change once the session was closed.

        Raises:
            SessionClosedError: the server ended the session, and all changes have been taken.

        """
        self._multiplexer.check_process()
        return iter(partial(self._next_change, timeout), None)

    def _next_change(self, timeout: float | None) -> Change | None:
        return self._multiplexer.next_change(timeout)

    def __aiter__(self) -> AsyncIterator[Change]:
        """Yield the changes of subscribed keys as they arrive, waiting in the running event loop.

        The asyncio form of `changes`; call the other methods in threads (`asyncio.to_thread`).

        Raises:
            InheritedByForkError: this process is a forked child.
            SessionClosedError: the server ended the session, and all changes have been taken, or
                `close` was called before.

        """
        self._multiplexer.check_open()
        return self._changes()

    async def _changes(self) -> AsyncIterator[Change]:
        import asyncio

        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        monitor = self._multiplexer.transport.monitor()
        try:
            while True:
                readable.clear()
                monitor.poll(0)
                while (change := self._multiplexer.next_change(0)) is not None:
                    yield change
                if self._multiplexer.is_drained:
                    return
                loop.add_reader(monitor.fileno(), readable.set)
                try:
                    await readable.wait()
                finally:
                    loop.remove_reader(monitor.fileno())
        finally:
            self._multiplexer.transport.put_back(monitor)

    def fileno(self) -> int:
        """Return a descriptor for poll(2) and the like, readable when changes may have arrived.

        Before each poll take what has arrived, with ``changes(0)``: changes that arrived during a
        request have left the pipe already. Valid until the session is closed.

        Raises:
            SessionClosedError: `close` was called.

        """
        self._multiplexer.check_open()
        return self._multiplexer.transport.fileno()

    # The end.

    def close(self) -> None:
        """Disconnect, which ends all subscriptions, and remove the pipes. Idempotent.

        Blocks for at most a few seconds if the server does not answer. Changes that have arrived
        can still be taken. A second call does the rest if the first one was interrupted. In a
        forked child it only frees the child's memory.
        """
        self._multiplexer.close()
        self._finalizer.detach()


def _encode_script(script: str | bytes) -> bytes:
    """Return the bytes of a script.

    Raises:
        ScriptTooLargeError: the script is longer than a server accepts.

    """
    raw = builder.encode_script(script)
    if len(raw) > MAX_SCRIPT_BYTES:
        raise ScriptTooLargeError(len(raw), MAX_SCRIPT_BYTES)
    return raw


def _build_prefix_command(name: bytes, prefix: Word) -> bytes:
    return builder.build_keys_command(name, [validate_word(prefix, "prefix")])


def _validate_subscribed(key: Word) -> bytes:
    """Return the bytes of a key that can be subscribed to.

    Raises:
        InvalidWordError: it cannot.

    """
    raw = validate_word(key, "key")
    if (reason := unsubscribable_reason(raw)) is not None:
        raise InvalidWordError(f"'{printable(raw, MAX_KEY_SHOWN_BYTES)}': {reason}")
    return raw


def _drop(multiplexer: RequestMultiplexer) -> None:
    """Close a session to which no reference is left, without waiting."""
    if multiplexer.inherited or multiplexer.closed:
        return
    multiplexer.transport.close()
    requests_path = os.fsdecode(multiplexer.transport.pipes.connect.requests)
    warn_unclosed(f"session with the pipe {requests_path!r}")

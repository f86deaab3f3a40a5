"""A session with a server, for programs: any number of threads, and asyncio."""

import os
import weakref
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self

from kvs.client import requests
from kvs.client.handshake import Path, connect_transport
from kvs.client.multiplexer import RequestMultiplexer
from kvs.concurrency.noncopyable import NonCopyable
from kvs.concurrency.unclosed import warn_unclosed
from kvs.language import builder
from kvs.language.builder import Word
from kvs.language.diagnostics import validate_word
from kvs.protocol import frames
from kvs.protocol.replies import ExecuteReply
from kvs.store.subscriptions import Change


def connect(
    fifo: Path,
    *,
    id: str | None = None,  # noqa: A002
    timeout: float | None = 30.0,
) -> "Session":
    """Connect to the server whose registration pipe is `fifo`.

    `id` names the client, and its pipes: of two at a time with the same one the second is
    refused. At most `timeout` seconds are waited for the answer (None: as long as it takes; a
    server that has as many sessions as it takes lets others wait).

    Raises:
        ServerNotFoundError: there is no server, or it went before it answered.
        ConnectTimeoutError: the time was up.
        ConnectRejectedError: the server answered with no.
        SessionClosedError: the server closed the pipes instead of an answer.
        InvalidClientIdError: `id` is none.
        ClientIdInUseError: another client has it.
        PipeDirectoryError: the pipes could not be made.

    """
    return Session(RequestMultiplexer(connect_transport(fifo, id, timeout)))


class Session(NonCopyable):
    """A session with a server; as a context manager it is closed at the end.

    Every method may be called from any thread, and waits for the server's answer. Requests are
    answered in the order in which they were sent. Changes of subscribed keys are kept until
    somebody takes them, some 200 bytes each while an answer is waited for; beyond 1,048,576 of
    them the session ends. While nobody waits they stay with the server, which gives up a client
    that does not keep up.

    Every method may also be called from a signal handler or a finalizer, in the middle of another
    call of the same thread, and an exception that a signal handler raises leaves the session
    usable: the reply to a request that was interrupted is dropped when it comes. A request that was
    interrupted is sent whole or not at all. A change that a call had just taken when it was
    interrupted is lost.

    In a forked child `close` frees the child's memory alone, and every other method raises
    `InheritedByForkError`. A session that is dropped without `close` is closed by the garbage
    collector, with a `ResourceWarning`, and without a disconnect.

    When the server ends the session, what had come by then can still be taken; after that, every
    method but `close` raises `SessionClosedError`.
    """

    def __init__(self, exchange: RequestMultiplexer) -> None:
        self._exchange = exchange
        self._finalizer = weakref.finalize(self, _drop, exchange)

    def __enter__(self) -> Self:
        self._exchange.check_process()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._exchange.closed

    # Requests.

    def subscribe(self, key: Word) -> bool:
        """Ask to be told of every change of `key`, there or not; tell whether it is there now.

        Raises:
            InvalidWordError: it is no word of the language.
            SessionClosedError: the session is at its end.

        """
        return self._ask(frames.SUBSCRIBE, key) == 1

    def unsubscribe(self, key: Word) -> bool:
        """Ask not to be told of `key` any more; tell whether it was subscribed.

        Raises:
            InvalidWordError: it is no word of the language.
            SessionClosedError: the session is at its end.

        """
        return self._ask(frames.UNSUBSCRIBE, key) == 0

    def execute(self, script: str | bytes) -> ExecuteReply:
        """Have lines of the command language carried out; return what came of them.

        Invalid lines raise nothing: `errors` tells of them, and `result` is then 1.

        Raises:
            ScriptTooLargeError: it is longer than 1 MiB; nothing was sent.
            SessionClosedError: the session is at its end; how much was carried out is not known.

        """
        reply = self._exchange.request(frames.encode_execute(requests.validate_script(script)))
        if not isinstance(reply, ExecuteReply):
            raise TypeError(reply)
        return reply

    def read(self, keys: Iterable[Word]) -> dict[bytes, bytes]:
        """Return the pairs of those `keys` that are there, of one instant, in order of the keys.

        Raises:
            InvalidWordError: a key is no word of the language.
            ScriptTooLargeError: they make more than 1 MiB.
            RequestRejectedError: the server refused.
            SessionClosedError: the session is at its end.

        """
        self._exchange.check_process()
        wanted = builder.validate_keys(keys)
        if not wanted:
            return {}
        executed = self.execute(builder.build_keys_command(b"READ", wanted))
        return builder.parse_read_output(requests.require_success(executed))

    def write(self, pairs: Mapping[Any, Word] | Iterable[tuple[Word, Word]]) -> None:
        """Set every pair of a mapping, or of an iterable of pairs, as one change.

        Raises:
            InvalidWordError: a key or value is no word of the language; nothing was sent.
            ScriptTooLargeError: they make more than 1 MiB; nothing was sent.
            RequestRejectedError: the server refused.
            SessionClosedError: the session is at its end; whether they were written is not known.

        """
        self._exchange.check_process()
        if line := builder.build_write(pairs):
            requests.require_success(self.execute(line))

    def delete(self, keys: Iterable[Word]) -> list[bytes]:
        """Remove `keys` as one change; return those that were missing, in order of the keys.

        As in the language, a key named twice is missing the second time.

        Raises:
            InvalidWordError: a key is no word of the language; nothing was sent.
            ScriptTooLargeError: they make more than 1 MiB; nothing was sent.
            RequestRejectedError: the server refused.
            SessionClosedError: the session is at its end; whether they were removed is not known.

        """
        self._exchange.check_process()
        doomed = builder.validate_keys(keys)
        if not doomed:
            return []
        executed = self.execute(builder.build_keys_command(b"DELETE", doomed))
        return builder.parse_delete_output(requests.require_success(executed))

    # Changes.

    def changes(self, timeout: float | None = None) -> Iterator[Change]:
        """Yield the changes of subscribed keys as they come; each goes to one taker alone.

        Ends when none has come for `timeout` seconds (None: waits for ever; 0: takes what is
        there), or after the last one once this session was closed.

        Raises:
            SessionClosedError: the server ended the session, and all that it told has been taken.

        """
        self._exchange.check_process()
        return iter(partial(self._next_change, timeout), None)

    def _next_change(self, timeout: float | None) -> Change | None:
        return self._exchange.next_change(timeout)

    def __aiter__(self) -> AsyncIterator[Change]:
        """Yield the changes of subscribed keys as they come, waiting in the running event loop.

        As `changes`, for asyncio; the other methods are for threads (`asyncio.to_thread`).

        Raises:
            InheritedByForkError: this process is a forked child.
            SessionClosedError: the server ended the session, and all that it told has been taken,
                or the session had been closed before.

        """
        self._exchange.check_open()
        return self._changes()

    async def _changes(self) -> AsyncIterator[Change]:
        import asyncio

        loop = asyncio.get_running_loop()
        news = asyncio.Event()
        monitor = self._exchange.link.monitor()
        try:
            while True:
                news.clear()
                monitor.poll(0)
                while (change := self._exchange.next_change(0)) is not None:
                    yield change
                if self._exchange.is_closed:
                    return
                loop.add_reader(monitor.fileno(), news.set)
                try:
                    await news.wait()
                finally:
                    loop.remove_reader(monitor.fileno())
        finally:
            self._exchange.link.put_back(monitor)

    def fileno(self) -> int:
        """Return a descriptor for poll(2) and the like: it can be read from when there is news.

        First take what is there, with ``changes(0)``, then wait: changes that came while an answer
        was waited for have left the pipe already. Good until the session is closed.

        Raises:
            SessionClosedError: the session was closed.

        """
        self._exchange.check_open()
        return self._exchange.link.fileno()

    # The end.

    def close(self) -> None:
        """Take leave of the server, which ends the subscriptions, and remove the pipes.

        Waits at most some seconds for a server that does not answer. Changes that had come can
        still be taken. A second time does nothing, but does what is left if the first one was
        interrupted. In a forked child it frees the child's memory alone.
        """
        self._exchange.close()
        self._finalizer.detach()

    def _ask(self, operation: int, key: Word) -> int:
        word = validate_word(key, "key")
        return self._exchange.request(frames.encode_key_request(operation, word)).result


def _drop(exchange: RequestMultiplexer) -> None:
    """Close a session that nothing refers to any more; never waits."""
    if exchange.inherited or exchange.closed:
        return
    exchange.link.close()
    requests_path = os.fsdecode(exchange.link.place.connect.requests)
    warn_unclosed(f"session with the pipe {requests_path!r}")

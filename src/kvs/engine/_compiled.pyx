# cython: language_level=3, binding=True
# distutils: language=c++
"""The compiled engine: Python objects in front of the C++ in `native`.

This module converts Python objects to bytes and back, with the interpreter's lock held. The C++
executes commands without it.

Locking: a thread must never wait for the engine's lock while it holds the interpreter's lock. Only
`with_locked_view` runs Python while it holds the engine's lock; code that runs in the same thread
then, a finalizer for example, may call the engine (`native/owned.hpp`).
"""

import os

from kvs.engine.interface import ExecuteResult, StopReason
from kvs.language import output_format
from kvs.language.diagnostics import Checked, diagnose_line, output_too_long

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint64_t
from libc.string cimport memcpy
from libcpp cimport bool as cbool
from libcpp.memory cimport unique_ptr
from libcpp.optional cimport optional
from libcpp.string cimport string
from libcpp.utility cimport move
from libcpp.vector cimport vector
from posix.unistd cimport getpid, pid_t


cdef extern from "<string_view>" namespace "std" nogil:
    cdef cppclass string_view:
        string_view(const char*, size_t)

cdef extern from "native/engine.hpp" namespace "kvs" nogil:
    cdef struct HashKey:
        uint64_t first
        uint64_t second

    uint64_t siphash13(HashKey, const char*, size_t)

    size_t MAX_KEY_BYTES
    size_t MAX_VALUE_BYTES
    uint64_t NO_EXPIRY

    cdef cppclass Word:
        const char* at
        unsigned int size

    cdef cppclass Key(Word):
        pass

    cdef enum class Kind:
        IDLE, WAIT, SHOW, BACKUP

    cdef enum class Fault:
        OUTPUT_BYTES

    cdef cppclass Buffer:
        const char* data()
        size_t size()
        void clear()
        void drain_to(char*)

    cdef cppclass ValueView:
        const char* at
        size_t size

    cdef cppclass KeyValue:
        cbool is_missing()
        const char* at
        size_t size

    cdef cppclass CapturedValues:
        size_t size()
        KeyValue operator[](size_t)

    cdef cppclass PrefixSet:
        PrefixSet()
        PrefixSet(vector[string]) except +

    cdef cppclass DumpQuery:
        PrefixSet prefixes
        optional[string] after
        size_t limit

    cdef cppclass Pairs:
        pass

    cdef cppclass Table:
        size_t size()
        Pairs pairs() except +

    cdef cppclass TableCopy:
        TableCopy(size_t, DumpQuery) except +
        const Pairs& pairs()

    cdef cppclass SortedDump:
        SortedDump(const Pairs&, cbool) except +
        size_t size()
        Word key(size_t)
        ValueView value(size_t)
        cbool is_finished()
        void append_block(Buffer&) except +

    cdef cppclass WriteDump:
        WriteDump(const Pairs&) except +
        cbool is_finished()
        void append_block(Buffer&) except +

    cdef cppclass Change:
        string key
        string value
        cbool removed

    cdef cppclass ChangeBatch:
        unique_ptr[ChangeBatch] next
        uint64_t marker
        uint64_t origin
        vector[Change] changes
        Buffer lines
        uint64_t count
        uint64_t revision
        cbool has_checkpoint
        long long job
        long long offset
        Buffer output
        cbool is_mergeable_with(const ChangeBatch&)

    cdef cppclass ChangeQueue:
        cbool has_ready()
        unique_ptr[ChangeBatch] take_ready()
        void put_back(unique_ptr[ChangeBatch])

    void destroy "kvs::ChangeQueue::destroy"(unique_ptr[ChangeBatch])

    cdef struct Invalid:
        size_t offset
        size_t valid_until
        Fault fault

    cbool is_unfinished_line(const char*, const char*)

    cdef cppclass ScriptCheck:
        size_t commands
        vector[Invalid] invalid
        void run(const char*, size_t) except +

    cdef cppclass Call:
        Call(const char*, size_t, size_t, size_t) except +
        void set_cursor(long long, long long)
        uint64_t origin
        void remove_limits()
        size_t offset
        size_t size
        Kind stop
        uint64_t wait_ms
        Buffer output
        size_t published_output_bytes
        vector[Invalid] invalid
        size_t commands
        size_t lines
        uint64_t revision

    cdef cppclass Engine:
        Engine(HashKey, string) except +
        void execute(Call&) except +
        void get(const vector[Key]&, CapturedValues&) except +
        void copy(TableCopy&) except +
        size_t estimate_copy_bytes()
        size_t max_dump_bytes()
        size_t size()
        uint64_t revision()
        uint64_t next_expiry()
        size_t expire(uint64_t, size_t) except +
        uint64_t replace(const vector[Key]&, const vector[Word]&, const vector[uint64_t]&) except +
        void start_recording(uint64_t)
        cbool watch(const string&, unique_ptr[ChangeBatch]) except +
        void unwatch(const string&)
        void settle()
        ChangeQueue& change_queue()
        cbool try_lock_quiescent()
        void lock_quiescent()
        void unlock()
        const Table& table()
        Key make_key(string_view)


cdef HashKey _process_key
_process_key.first = int.from_bytes(os.urandom(8), "little")
_process_key.second = int.from_bytes(os.urandom(8), "little")

cdef size_t _MAX_BUDGET = <size_t>1 << 62
cdef size_t _LONG_BYTES = <size_t>1 << 18
"""Bytes above which memory is copied and freed without the interpreter's lock."""


def siphash(key, bytes text not None):
    """Return the SipHash-1-3 of `text` under a key of two 64-bit numbers."""
    cdef HashKey hash_key
    hash_key.first, hash_key.second = key
    return siphash13(hash_key, text, len(text))


cdef class CompiledEngine:
    """The engine in C++. Thread-safe; see `kvs.engine.interface`."""

    cdef unique_ptr[Engine] _engine
    cdef pid_t _process

    name = "compiled"

    def __cinit__(self):
        self._engine.reset(new Engine(_process_key, output_format.HELP))
        self._process = getpid()

    def __dealloc__(self):
        # In a forked child, leak a table that a thread of the parent was changing at the fork.
        if getpid() != self._process and not self._engine.get().try_lock_quiescent():
            self._engine.release()

    @property
    def has_batches(self):
        """Whether there are change batches to move."""
        return self._engine.get().change_queue().has_ready()

    def execute(
        self, bytes script not None, size_t start, budget, cursor=None, *, cbool limits=True, origin=0
    ):
        """Execute the commands of `script` from byte `start` on."""
        cdef Engine* engine = self._engine.get()
        cdef unique_ptr[Call] call
        call.reset(new Call(script, len(script), start, min(budget, _MAX_BUDGET)))
        call.get().origin = origin
        if cursor is not None:
            call.get().set_cursor(cursor.job, cursor.base_offset)
        if not limits:
            call.get().remove_limits()
        with nogil:
            engine.execute(call.get()[0])
        result = _execute_result(script, call.get(), cursor is not None, limits)
        if call.get().output.size() > _LONG_BYTES:
            with nogil:
                call.reset()
        return result

    @staticmethod
    def check(bytes script not None):
        """Validate every line of `script`; execute nothing."""
        cdef ScriptCheck script_check
        cdef const char* text = script
        cdef size_t size = len(script)
        with nogil:
            script_check.run(text, size)
        return Checked(_diagnostics(script, script_check.invalid, True), script_check.commands)

    @staticmethod
    def is_unfinished(bytes beginning not None):
        """Return whether a line that begins with `beginning` may be valid; False if unknown."""
        cdef const char* text = beginning
        cdef size_t size = len(beginning)
        cdef cbool unfinished
        with nogil:
            unfinished = is_unfinished_line(text, text + size)
        return unfinished

    def get(self, keys):
        """Return the value of each key, None for a missing one."""
        cdef Engine* engine = self._engine.get()
        cdef vector[Key] hashed
        cdef CapturedValues values
        cdef KeyValue value
        cdef size_t number
        cdef bytes key
        owned = tuple(keys)  # keeps the bytes alive, to which `hashed` refers
        hashed.reserve(len(owned))
        for key in owned:
            hashed.push_back(engine.make_key(string_view(key, len(key))))
        with nogil:
            engine.get(hashed, values)
        found = []
        for number in range(values.size()):
            value = values[number]
            found.append(None if value.is_missing() else value.at[: value.size])
        return found

    def expire(self, uint64_t now_ms, size_t limit):
        """Remove at most `limit` pairs that expire at `now_ms` or before; return how many."""
        cdef size_t count
        with nogil:
            count = self._engine.get().expire(now_ms, limit)
        return count

    @property
    def next_expiry(self):
        """The earliest time at which a pair expires; `interface.NO_EXPIRY` if none does."""
        return self._engine.get().next_expiry()

    def items(self, prefixes=(), after=None, limit=None):
        """Return the pairs that SHOW with these arguments shows; by default, all."""
        return self._select(prefixes, after, limit, True)

    def keys(self, prefixes=(), after=None, limit=None):
        """Return the keys of `items` with these arguments."""
        return self._select(prefixes, after, limit, False)

    cdef list _select(self, prefixes, after, limit, cbool with_values):
        cdef Engine* engine = self._engine.get()
        cdef DumpQuery query
        if prefixes:
            query.prefixes = PrefixSet(<vector[string]>list(prefixes))
        if after is not None:
            query.after = <string>after
        if limit is not None:
            query.limit = min(limit, query.limit)
        cdef unique_ptr[TableCopy] copy
        cdef unique_ptr[SortedDump] dump
        with nogil:
            copy.reset(new TableCopy(engine.estimate_copy_bytes(), query))
            engine.copy(copy.get()[0])
            dump.reset(new SortedDump(copy.get().pairs(), False))
        cdef size_t number
        cdef bytes key
        cdef ValueView value
        selected = []
        for number in range(dump.get().size()):
            key = _word_bytes(dump.get().key(number))
            if with_values:
                value = dump.get().value(number)
                selected.append((key, value.at[: value.size]))
            else:
                selected.append(key)
        return selected

    def __len__(self):
        """Return the number of pairs."""
        return self._engine.get().size()

    def max_dump_bytes(self):
        """Return an upper bound of the bytes of all keys and values."""
        cdef Engine* engine = self._engine.get()
        return engine.max_dump_bytes()

    @property
    def revision(self):
        """The revision of the last change."""
        return self._engine.get().revision()

    def replace(self, dict pairs not None, expiries=output_format.NO_EXPIRIES):
        """Replace all pairs by `pairs`, as one change; return its revision."""
        cdef Engine* engine = self._engine.get()
        cdef vector[Key] keys
        cdef vector[Word] values
        cdef vector[uint64_t] untils
        cdef Word word
        cdef uint64_t revision
        cdef bytes key, value
        keys.reserve(len(pairs))
        values.reserve(len(pairs))
        untils.reserve(len(pairs))
        for key, value in pairs.items():
            if not 0 < <size_t>len(key) <= MAX_KEY_BYTES:
                raise ValueError(f"a key must have 1 to {MAX_KEY_BYTES} bytes")
            if <size_t>len(value) > MAX_VALUE_BYTES:
                raise ValueError(f"a value must have at most {MAX_VALUE_BYTES} bytes")
            keys.push_back(engine.make_key(string_view(key, len(key))))
            word.at, word.size = value, <unsigned int>len(value)
            values.push_back(word)
            untils.push_back(expiries.get(key, NO_EXPIRY) if expiries else NO_EXPIRY)
        with nogil:
            revision = engine.replace(keys, values, untils)
        return revision

    def start_recording(self, uint64_t revision):
        """Record changes as lines from now on; the next revision is `revision` + 1."""
        with nogil:
            self._engine.get().start_recording(revision)

    def watch(self, bytes key not None, uint64_t marker=0):
        """Report changes of `key` from now on, after a marker; return whether the key exists."""
        cdef string watched = key
        cdef unique_ptr[ChangeBatch] marker_batch
        cdef cbool exists
        if marker:
            marker_batch.reset(new ChangeBatch())
            marker_batch.get().marker = marker
        with nogil:
            exists = self._engine.get().watch(watched, move(marker_batch))
        return exists

    def unwatch(self, bytes key not None):
        """End one `watch` of `key`."""
        cdef string watched = key
        with nogil:
            self._engine.get().unwatch(watched)

    def settle(self):
        """Block until the change batches of all changes so far can be moved."""
        with nogil:
            self._engine.get().settle()

    def move_batches(self, list into not None):
        """Append the change batches that are ready, in order, in one call into C.

        Adjacent batches of one call become one.
        """
        # A CompiledBatch refers to no Python object, so creating one never starts the collector.
        cdef CompiledBatch batch
        cdef ChangeBatch* last
        cdef unique_ptr[ChangeBatch] rest
        cdef unique_ptr[ChangeBatch] taken = self._engine.get().change_queue().take_ready()
        while taken.get() is not NULL:
            last = taken.get()
            while last.next.get() is not NULL and last.next.get().is_mergeable_with(last[0]):
                last = last.next.get()
            try:
                batch = CompiledBatch.__new__(CompiledBatch)
                into.append(batch)
            except MemoryError:
                self._engine.get().change_queue().put_back(move(taken))
                raise
            rest = move(last.next)
            batch._first = move(taken)
            batch._last = last
            taken = move(rest)

    def with_locked_view(self, call):
        """Call `call` with a view of the table that no other thread can change meanwhile."""
        cdef Engine* engine = self._engine.get()
        if not engine.try_lock_quiescent():
            with nogil:
                engine.lock_quiescent()
        try:
            view = _view(engine)
            try:
                call(view)
            finally:
                view.end()
        finally:
            engine.unlock()


cdef class CompiledBatch:
    """Adjacent batches of one call, as one `ChangeBatch`; each property converts on access."""

    cdef unique_ptr[ChangeBatch] _first
    cdef ChangeBatch* _last

    def __dealloc__(self):
        destroy(move(self._first))

    @property
    def changes(self):
        """The changes of watched keys, in order."""
        cdef ChangeBatch* batch = self._first.get()
        changes = []
        while batch is not NULL:
            _append_changes(batch, changes)
            batch = batch.next.get()
        return changes

    @property
    def lines(self):
        """The commands that changed something; empty if not recorded."""
        cdef ChangeBatch* batch = self._first.get()
        if batch.next.get() is NULL:
            return _buffer_bytes(batch.lines, 0)
        texts = []
        while batch is not NULL:
            texts.append(_buffer_bytes(batch.lines, 0))
            batch = batch.next.get()
        return b"".join(texts)

    @property
    def change_count(self):
        """Number of lines in `lines`."""
        cdef ChangeBatch* batch = self._first.get()
        count = 0
        while batch is not NULL:
            count += batch.count
            batch = batch.next.get()
        return count

    @property
    def revision(self):
        """The revision after the last of the lines."""
        return self._last.revision

    @property
    def job(self):
        """Number of the job of a job call; else None."""
        return self._last.job if self._last.has_checkpoint else None

    @property
    def offset(self):
        """Offset in the job up to which a job call is executed."""
        return self._last.offset

    @property
    def output(self):
        """Output of a job call since its last batch."""
        cdef ChangeBatch* batch = self._first.get()
        texts = []
        while batch is not NULL:
            texts.append(_buffer_bytes(batch.output, 0))
            batch = batch.next.get()
        return b"".join(texts)

    @property
    def origin(self):
        """The origin that the call was given."""
        return self._last.origin

    @property
    def marker(self):
        """The marker of the watch that begins here, or 0."""
        return self._first.get().marker


cdef class CompiledView:
    """The table while the engine's lock is held, or in a child process forked meanwhile."""

    cdef const Table* _table
    cdef readonly uint64_t revision

    def __len__(self):
        return self._require_open().size()

    def listing(self, cbool expiries=False):
        """Yield the lines of SHOW, with UNTIL if `expiries`, in blocks of many lines."""
        return _ListingIterator(self, expiries)

    def writes(self):
        """Yield lines of WRITE that set every pair, with UNTIL, in any order, in blocks."""
        return _WritesIterator(self)

    def end(self):
        """Make every later use raise ValueError."""
        self._table = NULL

    cdef const Table* _require_open(self) except NULL:
        if self._table is NULL:
            raise ValueError("the view is no longer valid")
        return self._table


cdef CompiledView _view(Engine* engine):
    cdef CompiledView view = CompiledView.__new__(CompiledView)
    view._table = &engine.table()
    view.revision = engine.revision()
    return view


cdef class _ListingIterator:
    cdef CompiledView _view
    cdef unique_ptr[SortedDump] _listing
    cdef Buffer _block

    def __cinit__(self, CompiledView view not None, cbool expiries):
        cdef const Table* table = view._require_open()
        self._view = view
        with nogil:
            self._listing.reset(new SortedDump(table.pairs(), expiries))

    def __iter__(self):
        return self

    def __next__(self):
        self._view._require_open()
        if self._listing.get().is_finished():
            raise StopIteration
        self._block.clear()
        self._listing.get().append_block(self._block)
        return _buffer_bytes(self._block, 0)


cdef class _WritesIterator:
    cdef CompiledView _view
    cdef unique_ptr[WriteDump] _writes
    cdef Buffer _block

    def __cinit__(self, CompiledView view not None):
        self._view = view
        self._writes.reset(new WriteDump(view._require_open().pairs()))

    def __iter__(self):
        return self

    def __next__(self):
        self._view._require_open()
        if self._writes.get().is_finished():
            raise StopIteration
        self._block.clear()
        self._writes.get().append_block(self._block)
        return _buffer_bytes(self._block, 0)


cdef _execute_result(bytes script, Call* call, bint is_job_call, cbool limits):
    reason = StopReason.END if call.offset == call.size else StopReason.BUDGET
    wait_output = b""
    if call.stop == Kind.WAIT:
        reason = StopReason.WAIT
        wait_output = output_format.WAITING
    elif call.stop == Kind.BACKUP:
        reason = StopReason.BACKUP
    uncheckpointed = None
    if is_job_call and call.stop != Kind.IDLE:
        uncheckpointed = _buffer_bytes(call.output, call.published_output_bytes) + wait_output
    return ExecuteResult(
        reason,
        call.offset,
        _drained_bytes(call.output) + wait_output,
        _diagnostics(script, call.invalid, limits),
        call.commands,
        call.lines,
        call.revision,
        call.wait_ms,
        uncheckpointed,
    )


cdef _append_changes(ChangeBatch* batch, list changes):
    cdef size_t number
    cdef Change* change
    for number in range(batch.changes.size()):
        change = &batch.changes[number]
        changes.append((<bytes>change.key, None if change.removed else <bytes>change.value))


cdef list _diagnostics(bytes script, vector[Invalid]& invalid, cbool limits):
    diagnostics = [
        output_too_long(script, line.offset)
        if line.fault == Fault.OUTPUT_BYTES
        else diagnose_line(script, line.offset, line.valid_until, limits=limits)
        for line in invalid
    ]
    return [diagnostic for diagnostic in diagnostics if diagnostic is not None]


cdef bytes _drained_bytes(Buffer& buffer):
    """Return the bytes of `buffer` and clear it; see `Buffer::drain_to`."""
    cdef bytes text = PyBytes_FromStringAndSize(NULL, buffer.size())
    cdef char* at = text
    if buffer.size() <= _LONG_BYTES:
        buffer.drain_to(at)
    else:
        with nogil:
            buffer.drain_to(at)
    return text


cdef bytes _buffer_bytes(Buffer& buffer, size_t start):
    """Return the bytes of `buffer` from `start` on."""
    cdef size_t size = buffer.size() - start
    if not size:
        return b""
    if size <= _LONG_BYTES:
        return buffer.data()[start : buffer.size()]
    cdef bytes text = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
    cdef char* at = text
    with nogil:
        memcpy(at, buffer.data() + start, size)
    return text


cdef bytes _word_bytes(Word word):
    return word.at[: word.size]

# cython: language_level=3, binding=True
# distutils: language=c++
"""The compiled engine: a door of Cython to the rooms of C++ in `native`.

Here Python's objects are turned into bytes and back, with the interpreter's lock; commands are
carried out there, without it. Law: nobody waits for the engine's lock while holding the
interpreter's. `with_locked_view` calls Python while it holds the engine's, and only it does; what runs
there in the same thread, a finalizer for instance, may call the engine (`native/owned.hpp`).
"""

import os

from kvs.engine.interface import ExecuteResult, StopReason
from kvs.language import output_format
from kvs.language.diagnostics import Checked, diagnose_line

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint64_t
from libc.string cimport memcpy
from libcpp cimport bool as cbool
from libcpp.memory cimport unique_ptr
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

    cdef cppclass Word:
        const char* at
        unsigned char size

    cdef cppclass Key(Word):
        pass

    cdef cppclass Value:
        const char* bytes
        unsigned char size

    cdef enum class Kind:
        IDLE, WAIT, SHOW, BACKUP

    cdef cppclass Buffer:
        const char* data()
        size_t size()
        void clear()
        void drain_to(char*)

    cdef cppclass Span:
        pass

    cdef cppclass Records:
        vector[Span] spans() except +

    cdef cppclass Table:
        size_t size()
        const Records& records()

    cdef cppclass TableCopy:
        TableCopy(size_t) except +
        const vector[Span]& spans()
        size_t count()

    cdef cppclass SortedDump:
        SortedDump(const vector[Span]&, size_t) except +
        size_t size()
        Word key(size_t)
        Word value(size_t)
        cbool is_finished()
        void append_block(Buffer&) except +

    cdef cppclass WriteDump:
        WriteDump(const vector[Span]&) except +
        cbool is_finished()
        void append_block(Buffer&) except +

    cdef cppclass Change:
        string key
        string value
        cbool removed

    cdef cppclass ChangeBatch:
        unique_ptr[ChangeBatch] next
        uint64_t marker
        vector[Change] changes
        Buffer lines
        uint64_t count
        uint64_t revision
        cbool marked
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

    cdef cppclass ScriptCheck:
        size_t commands
        vector[Invalid] invalid
        void run(const char*, size_t) except +

    cdef cppclass Call:
        Call(const char*, size_t, size_t, size_t) except +
        void mark(long long, long long)
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
        void get(const vector[Key]&, vector[Value]&) except +
        void copy(TableCopy&) except +
        size_t estimate_copy_bytes()
        size_t size()
        uint64_t revision()
        uint64_t replace(const vector[Key]&, const vector[Word]&) except +
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
cdef Py_ssize_t _WORD_BYTES = 40

cdef size_t _LONG_BYTES = <size_t>1 << 18
"""Bytes that take so long to copy or to free that it is done without the interpreter's lock."""


def siphash(key, bytes text not None):
    """Return the hash of `text` under a key of two numbers of 64 bits."""
    cdef HashKey hash_key
    hash_key.first, hash_key.second = key
    return siphash13(hash_key, text, len(text))


cdef class CompiledEngine:
    """A table, its lock and commands, in C++. Thread-safe; see `kvs.engine.interface`."""

    cdef unique_ptr[Engine] _engine
    cdef pid_t _process

    name = "compiled"

    def __cinit__(self):
        self._engine.reset(new Engine(_process_key, output_format.HELP))
        self._process = getpid()

    def __dealloc__(self):
        # In a forked child: what another thread of the parent was changing at the fork stays there.
        if getpid() != self._process and not self._engine.get().try_lock_quiescent():
            self._engine.release()

    @property
    def has_batches(self):
        """Whether there are change batches to move."""
        return self._engine.get().change_queue().has_ready()

    def execute(self, bytes script not None, size_t start, budget, mark=None):
        """Carry out the commands of `script` from byte `start` on."""
        cdef Engine* engine = self._engine.get()
        cdef unique_ptr[Call] call
        call.reset(new Call(script, len(script), start, min(budget, _MAX_BUDGET)))
        if mark is not None:
            call.get().mark(mark.job, mark.base_offset)
        with nogil:
            engine.execute(call.get()[0])
        result = _execute_result(script, call.get(), mark is not None)
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
        return Checked(_diagnostics(script, script_check.invalid), script_check.commands)

    def get(self, keys):
        """Return the values of `keys`, None where one is missing."""
        cdef Engine* engine = self._engine.get()
        cdef vector[Key] wanted
        cdef vector[Value] values
        cdef bytes key
        held = tuple(keys)  # their bytes stay where they are
        wanted.reserve(len(held))
        for key in held:
            wanted.push_back(engine.make_key(string_view(key, len(key))))
        with nogil:
            engine.get(wanted, values)
        return [value.bytes[: value.size] if value.size else None for value in values]

    def items(self):
        """Return all pairs in ascending order of the keys."""
        cdef Engine* engine = self._engine.get()
        cdef unique_ptr[TableCopy] copy
        cdef unique_ptr[SortedDump] listing
        with nogil:
            copy.reset(new TableCopy(engine.estimate_copy_bytes()))
            engine.copy(copy.get()[0])
            listing.reset(new SortedDump(copy.get().spans(), copy.get().count()))
        cdef size_t number
        pairs = []
        for number in range(listing.get().size()):
            pairs.append((_word_bytes(listing.get().key(number)), _word_bytes(listing.get().value(number))))
        return pairs

    def __len__(self):
        """Return the number of pairs."""
        return self._engine.get().size()

    def max_dump_bytes(self):
        """Return an upper bound of the bytes of all keys and values."""
        cdef Engine* engine = self._engine.get()
        return min(engine.size() * 2 * _WORD_BYTES, engine.estimate_copy_bytes())

    @property
    def revision(self):
        """The revision of the last change."""
        return self._engine.get().revision()

    def replace(self, dict pairs not None):
        """Let `pairs` be everything, as one change; return its revision."""
        cdef Engine* engine = self._engine.get()
        cdef vector[Key] keys
        cdef vector[Word] values
        cdef uint64_t revision
        cdef bytes key, value
        keys.reserve(len(pairs))
        values.reserve(len(pairs))
        for key, value in pairs.items():
            if not (0 < len(key) <= _WORD_BYTES and 0 < len(value) <= _WORD_BYTES):
                raise ValueError(f"a word has 1 to {_WORD_BYTES} bytes")
            keys.push_back(engine.make_key(string_view(key, len(key))))
            values.push_back(<Word>engine.make_key(string_view(value, len(value))))
        with nogil:
            revision = engine.replace(keys, values)
        return revision

    def start_recording(self, uint64_t revision):
        """From now on, record changes as lines, and count on from `revision`."""
        with nogil:
            self._engine.get().start_recording(revision)

    def watch(self, bytes key not None, uint64_t marker=0):
        """Report changes of `key` from now on, behind a marker; return whether it exists."""
        cdef string watched = key
        cdef unique_ptr[ChangeBatch] effect
        cdef cbool there
        if marker:
            effect.reset(new ChangeBatch())
            effect.get().marker = marker
        with nogil:
            there = self._engine.get().watch(watched, move(effect))
        return there

    def unwatch(self, bytes key not None):
        """End a `watch`."""
        cdef string watched = key
        with nogil:
            self._engine.get().unwatch(watched)

    def settle(self):
        """Block until the effects of all changes so far can be moved."""
        with nogil:
            self._engine.get().settle()

    def move_batches(self, list batches not None):
        """Append the effects that can be moved, in order, in one call into C."""
        # A CompiledBatch refers to no object, so that creating it never collects garbage.
        cdef CompiledBatch each
        cdef ChangeBatch* last
        cdef unique_ptr[ChangeBatch] rest
        cdef unique_ptr[ChangeBatch] taken = self._engine.get().change_queue().take_ready()
        while taken.get() is not NULL:
            last = taken.get()
            while last.next.get() is not NULL and last.next.get().is_mergeable_with(last[0]):
                last = last.next.get()
            try:
                each = CompiledBatch.__new__(CompiledBatch)
                batches.append(each)
            except MemoryError:
                self._engine.get().change_queue().put_back(move(taken))
                raise
            rest = move(last.next)
            each._first = move(taken)
            each._last = last
            taken = move(rest)

    def with_locked_view(self, call):
        """Call `call` between two commands."""
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
    """Effects of one call, as `kvs.engine.interface.ChangeBatch`; converted when they are looked at."""

    cdef unique_ptr[ChangeBatch] _first
    cdef ChangeBatch* _last

    def __dealloc__(self):
        destroy(move(self._first))

    @property
    def changes(self):
        """Those of watched keys, in order."""
        cdef ChangeBatch* each = self._first.get()
        changes = []
        while each is not NULL:
            _append_changes(each, changes)
            each = each.next.get()
        return changes

    @property
    def lines(self):
        """The commands that changed something, if they are recorded."""
        cdef ChangeBatch* each = self._first.get()
        if each.next.get() is NULL:
            return _buffer_bytes(each.lines, 0)
        texts = []
        while each is not NULL:
            texts.append(_buffer_bytes(each.lines, 0))
            each = each.next.get()
        return b"".join(texts)

    @property
    def change_count(self):
        """How many lines these are."""
        cdef ChangeBatch* each = self._first.get()
        count = 0
        while each is not NULL:
            count += each.count
            each = each.next.get()
        return count

    @property
    def revision(self):
        """The revision after the last of them."""
        return self._last.revision

    @property
    def job(self):
        """Of a marked call: the job of its mark."""
        return self._last.job if self._last.marked else None

    @property
    def offset(self):
        """Of a marked call: how far it came."""
        return self._last.offset

    @property
    def output(self):
        """Of a marked call: what it has written since its effects before."""
        cdef ChangeBatch* each = self._first.get()
        texts = []
        while each is not NULL:
            texts.append(_buffer_bytes(each.output, 0))
            each = each.next.get()
        return b"".join(texts)

    @property
    def marker(self):
        """The marker of a watch that begins here, or 0."""
        return self._first.get().marker


cdef class CompiledView:
    """Everything as it is while the engine's lock is held, or in a child that was forked then."""

    cdef const Table* _table
    cdef readonly uint64_t revision

    def __len__(self):
        return self._require_open().size()

    def listing(self):
        """Yield the lines of SHOW, in order of the keys, many a block."""
        return _ListingIterator(self)

    def writes(self):
        """Yield lines of WRITE that between them set every pair, in any order, many a block."""
        return _WritesIterator(self)

    def end(self):
        """Let nobody use it any more."""
        self._table = NULL

    cdef const Table* _require_open(self) except NULL:
        if self._table is NULL:
            raise ValueError("this view is over")
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

    def __cinit__(self, CompiledView view not None):
        cdef const Table* table = view._require_open()
        self._view = view
        with nogil:
            self._listing.reset(new SortedDump(table.records().spans(), table.size()))

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
        self._writes.reset(new WriteDump(view._require_open().records().spans()))

    def __iter__(self):
        return self

    def __next__(self):
        self._view._require_open()
        if self._writes.get().is_finished():
            raise StopIteration
        self._block.clear()
        self._writes.get().append_block(self._block)
        return _buffer_bytes(self._block, 0)


cdef _execute_result(bytes script, Call* call, bint marked):
    reason = StopReason.END if call.offset == call.size else StopReason.BUDGET
    waiting = b""
    if call.stop == Kind.WAIT:
        reason = StopReason.WAIT
        waiting = output_format.WAITING
    elif call.stop == Kind.BACKUP:
        reason = StopReason.BACKUP
    uncheckpointed = None
    if marked and call.stop != Kind.IDLE:
        uncheckpointed = _buffer_bytes(call.output, call.published_output_bytes) + waiting
    return ExecuteResult(
        reason,
        call.offset,
        _drained_bytes(call.output) + waiting,
        _diagnostics(script, call.invalid),
        call.commands,
        call.lines,
        call.revision,
        call.wait_ms,
        uncheckpointed,
    )


cdef _append_changes(ChangeBatch* effect, list changes):
    cdef size_t number
    cdef Change* change
    for number in range(effect.changes.size()):
        change = &effect.changes[number]
        changes.append((<bytes>change.key, None if change.removed else <bytes>change.value))


cdef list _diagnostics(bytes script, vector[Invalid]& invalid):
    found = [diagnose_line(script, invalid_line.offset, invalid_line.valid_until) for invalid_line in invalid]
    return [fault for fault in found if fault is not None]


cdef bytes _drained_bytes(Buffer& buffer):
    """Return all of `buffer`, which is empty then; see `Buffer::move_to`."""
    cdef bytes text = PyBytes_FromStringAndSize(NULL, buffer.size())
    cdef char* at = text
    if buffer.size() <= _LONG_BYTES:
        buffer.drain_to(at)
    else:
        with nogil:
            buffer.drain_to(at)
    return text


cdef bytes _buffer_bytes(Buffer& buffer, size_t start):
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

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
        void move_to(char*)

    cdef cppclass Span:
        pass

    cdef cppclass Records:
        vector[Span] spans() except +

    cdef cppclass Table:
        size_t size()
        const Records& records()

    cdef cppclass Copy:
        Copy(size_t) except +
        const vector[Span]& spans()
        size_t count()

    cdef cppclass Listing:
        Listing(const vector[Span]&, size_t) except +
        size_t size()
        Word key(size_t)
        Word value(size_t)
        cbool ended()
        void put_block(Buffer&) except +

    cdef cppclass Writes:
        Writes(const vector[Span]&) except +
        cbool ended()
        void put_block(Buffer&) except +

    cdef cppclass Change:
        string key
        string value
        cbool removed

    cdef cppclass Effect:
        unique_ptr[Effect] next
        uint64_t marker
        vector[Change] changes
        Buffer lines
        uint64_t count
        uint64_t revision
        cbool marked
        long long job
        long long offset
        Buffer output
        cbool continues(const Effect&)

    cdef cppclass EffectQueue "kvs::Effects":
        cbool any()
        unique_ptr[Effect] take()
        void put_back(unique_ptr[Effect])

    void drop "kvs::Effects::drop"(unique_ptr[Effect])

    cdef struct Invalid:
        size_t offset
        size_t good

    cdef cppclass Check:
        size_t commands
        vector[Invalid] invalid
        void run(const char*, size_t) except +

    cdef cppclass Call:
        Call(const char*, size_t, size_t, size_t) except +
        void mark(long long, long long)
        size_t offset
        size_t size
        Kind stop
        uint64_t milliseconds
        Buffer output
        size_t told
        vector[Invalid] invalid
        size_t commands
        size_t lines
        uint64_t revision

    cdef cppclass Engine:
        Engine(HashKey, string) except +
        void execute(Call&) except +
        void get(const vector[Key]&, vector[Value]&) except +
        void copy(Copy&) except +
        size_t probable_bytes()
        size_t size()
        uint64_t revision()
        uint64_t replace(const vector[Key]&, const vector[Word]&) except +
        void record(uint64_t)
        cbool watch(const string&, unique_ptr[Effect]) except +
        void unwatch(const string&)
        void settle()
        EffectQueue& effects()
        cbool try_hold()
        void hold()
        void let_go()
        const Table& table()
        Key hashed(string_view)


cdef HashKey _process_key
_process_key.first = int.from_bytes(os.urandom(8), "little")
_process_key.second = int.from_bytes(os.urandom(8), "little")

cdef size_t _MOST_BUDGET = <size_t>1 << 62
cdef Py_ssize_t _WORD_BYTES = 40

cdef size_t _LONG = <size_t>1 << 18
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
        if getpid() != self._process and not self._engine.get().try_hold():
            self._engine.release()

    @property
    def has_batches(self):
        """Whether there are change batches to move."""
        return self._engine.get().effects().any()

    def execute(self, bytes script not None, size_t start, budget, mark=None):
        """Carry out the commands of `script` from byte `start` on."""
        cdef Engine* engine = self._engine.get()
        cdef unique_ptr[Call] call
        call.reset(new Call(script, len(script), start, min(budget, _MOST_BUDGET)))
        if mark is not None:
            call.get().mark(mark.job, mark.base_offset)
        with nogil:
            engine.execute(call.get()[0])
        pause = _pause(script, call.get(), mark is not None)
        if call.get().output.size() > _LONG:
            with nogil:
                call.reset()
        return pause

    @staticmethod
    def check(bytes script not None):
        """Validate every line of `script`; execute nothing."""
        cdef Check found
        cdef const char* text = script
        cdef size_t size = len(script)
        with nogil:
            found.run(text, size)
        return Checked(_faults(script, found.invalid), found.commands)

    def get(self, keys):
        """Return the values of `keys`, None where one is missing."""
        cdef Engine* engine = self._engine.get()
        cdef vector[Key] wanted
        cdef vector[Value] values
        cdef bytes key
        held = tuple(keys)  # their bytes stay where they are
        wanted.reserve(len(held))
        for key in held:
            wanted.push_back(engine.hashed(string_view(key, len(key))))
        with nogil:
            engine.get(wanted, values)
        return [value.bytes[: value.size] if value.size else None for value in values]

    def items(self):
        """Return all pairs in ascending order of the keys."""
        cdef Engine* engine = self._engine.get()
        cdef unique_ptr[Copy] copy
        cdef unique_ptr[Listing] listing
        with nogil:
            copy.reset(new Copy(engine.probable_bytes()))
            engine.copy(copy.get()[0])
            listing.reset(new Listing(copy.get().spans(), copy.get().count()))
        cdef size_t number
        pairs = []
        for number in range(listing.get().size()):
            pairs.append((_bytes(listing.get().key(number)), _bytes(listing.get().value(number))))
        return pairs

    def __len__(self):
        """Return the number of pairs."""
        return self._engine.get().size()

    def max_dump_bytes(self):
        """Return an upper bound of the bytes of all keys and values."""
        cdef Engine* engine = self._engine.get()
        return min(engine.size() * 2 * _WORD_BYTES, engine.probable_bytes())

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
            keys.push_back(engine.hashed(string_view(key, len(key))))
            values.push_back(<Word>engine.hashed(string_view(value, len(value))))
        with nogil:
            revision = engine.replace(keys, values)
        return revision

    def start_recording(self, uint64_t revision):
        """From now on, record changes as lines, and count on from `revision`."""
        with nogil:
            self._engine.get().record(revision)

    def watch(self, bytes key not None, uint64_t marker=0):
        """Report changes of `key` from now on, behind a marker; return whether it exists."""
        cdef string watched = key
        cdef unique_ptr[Effect] effect
        cdef cbool there
        if marker:
            effect.reset(new Effect())
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

    def move_batches(self, list into not None):
        """Append the effects that can be moved, in order, in one call into C."""
        # A CompiledBatch refers to no object, so that creating it never collects garbage.
        cdef CompiledBatch each
        cdef Effect* last
        cdef unique_ptr[Effect] rest
        cdef unique_ptr[Effect] taken = self._engine.get().effects().take()
        while taken.get() is not NULL:
            last = taken.get()
            while last.next.get() is not NULL and last.next.get().continues(last[0]):
                last = last.next.get()
            try:
                each = CompiledBatch.__new__(CompiledBatch)
                into.append(each)
            except MemoryError:
                self._engine.get().effects().put_back(move(taken))
                raise
            rest = move(last.next)
            each._first = move(taken)
            each._last = last
            taken = move(rest)

    def with_locked_view(self, call):
        """Call `call` between two commands."""
        cdef Engine* engine = self._engine.get()
        if not engine.try_hold():
            with nogil:
                engine.hold()
        try:
            view = _view(engine)
            try:
                call(view)
            finally:
                view.end()
        finally:
            engine.let_go()


cdef class CompiledBatch:
    """Effects of one call, as `kvs.engine.interface.ChangeBatch`; converted when they are looked at."""

    cdef unique_ptr[Effect] _first
    cdef Effect* _last

    def __dealloc__(self):
        drop(move(self._first))

    @property
    def changes(self):
        """Those of watched keys, in order."""
        cdef Effect* each = self._first.get()
        changes = []
        while each is not NULL:
            _put_changes(each, changes)
            each = each.next.get()
        return changes

    @property
    def lines(self):
        """The commands that changed something, if they are recorded."""
        cdef Effect* each = self._first.get()
        if each.next.get() is NULL:
            return _text(each.lines, 0)
        texts = []
        while each is not NULL:
            texts.append(_text(each.lines, 0))
            each = each.next.get()
        return b"".join(texts)

    @property
    def change_count(self):
        """How many lines these are."""
        cdef Effect* each = self._first.get()
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
        cdef Effect* each = self._first.get()
        texts = []
        while each is not NULL:
            texts.append(_text(each.output, 0))
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
        return self._there().size()

    def listing(self):
        """Yield the lines of SHOW, in order of the keys, many a block."""
        return _ListingBlocks(self)

    def writes(self):
        """Yield lines of WRITE that between them set every pair, in any order, many a block."""
        return _WritesBlocks(self)

    def end(self):
        """Let nobody use it any more."""
        self._table = NULL

    cdef const Table* _there(self) except NULL:
        if self._table is NULL:
            raise ValueError("this view is over")
        return self._table


cdef CompiledView _view(Engine* engine):
    cdef CompiledView view = CompiledView.__new__(CompiledView)
    view._table = &engine.table()
    view.revision = engine.revision()
    return view


cdef class _ListingBlocks:
    cdef CompiledView _view
    cdef unique_ptr[Listing] _listing
    cdef Buffer _block

    def __cinit__(self, CompiledView view not None):
        cdef const Table* table = view._there()
        self._view = view
        with nogil:
            self._listing.reset(new Listing(table.records().spans(), table.size()))

    def __iter__(self):
        return self

    def __next__(self):
        self._view._there()
        if self._listing.get().ended():
            raise StopIteration
        self._block.clear()
        self._listing.get().put_block(self._block)
        return _text(self._block, 0)


cdef class _WritesBlocks:
    cdef CompiledView _view
    cdef unique_ptr[Writes] _writes
    cdef Buffer _block

    def __cinit__(self, CompiledView view not None):
        self._view = view
        self._writes.reset(new Writes(view._there().records().spans()))

    def __iter__(self):
        return self

    def __next__(self):
        self._view._there()
        if self._writes.get().ended():
            raise StopIteration
        self._block.clear()
        self._writes.get().put_block(self._block)
        return _text(self._block, 0)


cdef _pause(bytes script, Call* call, bint marked):
    reason = StopReason.END if call.offset == call.size else StopReason.BUDGET
    waiting = b""
    if call.stop == Kind.WAIT:
        reason = StopReason.WAIT
        waiting = output_format.WAITING
    elif call.stop == Kind.BACKUP:
        reason = StopReason.BACKUP
    uncheckpointed = None
    if marked and call.stop != Kind.IDLE:
        uncheckpointed = _text(call.output, call.told) + waiting
    return ExecuteResult(
        reason,
        call.offset,
        _moved(call.output) + waiting,
        _faults(script, call.invalid),
        call.commands,
        call.lines,
        call.revision,
        call.milliseconds,
        uncheckpointed,
    )


cdef _put_changes(Effect* effect, list changes):
    cdef size_t number
    cdef Change* change
    for number in range(effect.changes.size()):
        change = &effect.changes[number]
        changes.append((<bytes>change.key, None if change.removed else <bytes>change.value))


cdef list _faults(bytes script, vector[Invalid]& invalid):
    found = [diagnose_line(script, each.offset, each.good) for each in invalid]
    return [fault for fault in found if fault is not None]


cdef bytes _moved(Buffer& buffer):
    """Return all of `buffer`, which is empty then; see `Buffer::move_to`."""
    cdef bytes text = PyBytes_FromStringAndSize(NULL, buffer.size())
    cdef char* at = text
    if buffer.size() <= _LONG:
        buffer.move_to(at)
    else:
        with nogil:
            buffer.move_to(at)
    return text


cdef bytes _text(Buffer& buffer, size_t start):
    cdef size_t size = buffer.size() - start
    if not size:
        return b""
    if size <= _LONG:
        return buffer.data()[start : buffer.size()]
    cdef bytes text = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
    cdef char* at = text
    with nogil:
        memcpy(at, buffer.data() + start, size)
    return text


cdef bytes _bytes(Word word):
    return word.at[: word.size]

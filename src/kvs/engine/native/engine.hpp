// The engine: the table, the engine's lock, and the calls that execute scripts on the table.
//
// A call reads a batch of lines without the lock, executes it under the lock, and formats its
// output without the lock again. So many calls run in parallel, and each command takes effect at
// one instant.
//
// Locking: `lock_` guards the table, the revision and the watched keys; it is held for one batch of
// lines at a time. `ChangeQueue` has a lock of its own, which is taken alone or inside `lock_`.
// Nothing here calls Python or needs the interpreter's lock. Every method that takes `lock_` must
// be called without the interpreter's lock, but for `try_lock_quiescent`, which does not block.
// EXCLUDES holds for C++ callers: Python code that runs between `lock_quiescent` and `unlock` may
// call any method (owned.hpp).
#pragma once

#include <atomic>
#include <cassert>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "batch.hpp"
#include "change_queue.hpp"
#include "owned.hpp"
#include "table_dump.hpp"
#include "thread_annotations.hpp"

namespace kvs {

// One call of `Engine::execute`: its arguments and its result. Used by one thread.
struct Call {
    // The byte after the script must be NUL. The script must outlive the call.
    Call(const char* script, std::size_t size, std::size_t start, std::size_t budget)
        : script(script), start(start), offset(start), size(size), end(size) {
        assert(start <= size && script[size] == '\0');
        output_budget = static_cast<long long>(budget);
        if (budget >= size - start) return;
        const char* const limit = script + start + budget;
        if (const void* newline = std::memchr(limit, '\n', std::size_t(script + size - limit)))
            end = std::size_t(static_cast<const char*>(newline) - script) + 1;
    }

    // Make the change batches report a checkpoint of job `job_id`, whose script begins at
    // `script_offset` of the job.
    void set_cursor(long long job_id, long long script_offset) {
        has_cursor = true;
        job = job_id;
        base_offset = script_offset;
    }

    // Let lines and their outputs have any length.
    void remove_limits() { has_limits = false; }

    bool is_finished() const {
        return offset >= end || output_budget < 0 || stop == Kind::WAIT || stop == Kind::BACKUP ||
               (stop == Kind::SHOW && has_cursor);
    }

    const char* const script;
    const std::size_t start;
    std::size_t offset;  // of the first line that is not executed yet
    const std::size_t size;
    std::size_t end;          // of the line that takes the call past its budget of input
    long long output_budget;  // bytes of output left; below 0, the call is finished
    bool has_cursor = false;
    long long job = 0;
    long long base_offset = 0;
    std::uint64_t origin = 0;
    bool has_limits = true;

    Kind stop = Kind::IDLE;  // what stopped the last batch: WAIT, SHOW or BACKUP; else IDLE
    std::uint64_t wait_ms = 0;
    Buffer output;
    std::size_t published_output_bytes =
        0;  // bytes of `output` in the change batches of a job call
    std::vector<Invalid> invalid;
    std::size_t commands = 0;
    std::size_t lines = 0;
    std::uint64_t revision = 0;
};

class Engine {
public:
    // Throws std::bad_alloc.
    Engine(HashKey key, std::string help)
        : key_(key),
          help_(std::move(help)),
          table_(std::make_shared<Table>(key)),
          watched_keys_(key) {}

    // Execute commands until the call is finished. Throws std::bad_alloc for a command that has not
    // been executed; the commands before it have been.
    void execute(Call& call) EXCLUDES(lock_) {
        const ActiveCallGuard active(active_calls_);
        LineBatch batch(LineParser(key_, call.script + call.size), help_, call.has_limits);
        CallContext context{};
        context.call = next_call_.fetch_add(1, std::memory_order_relaxed);
        call.revision = revision();
        while (!call.is_finished()) {
            read_batch(call, batch, context);
            if (!execute_batch(call, batch, context)) throw std::bad_alloc();
            if (call.stop == Kind::SHOW) append_dump(call, context);
        }
    }

    // Add the values of `keys` at one instant. Throws std::bad_alloc.
    void get(const std::vector<Key>& keys, CapturedValues& values) EXCLUDES(lock_) {
        const ScopedLock held(lock_);
        for (const Key& key : keys) {
            const RecordId id = table_->find(key);
            values.add(id ? KeyValue::of_record(table_->records()[id].value())
                          : KeyValue::missing());
        }
    }

    // Copy the records that the query of `copy` selects. Throws std::bad_alloc.
    void copy(TableCopy& copy) EXCLUDES(lock_) {
        const ScopedLock held(lock_);
        if (!copy.copy_from(*table_)) throw std::bad_alloc();
    }

    // Return the bytes that a copy of all records will probably take.
    std::size_t estimate_copy_bytes() const {
        const std::size_t bytes = bytes_.load(std::memory_order_relaxed);
        return bytes + bytes / 16 + 4096;
    }

    // Return an upper bound of the bytes of all keys and values.
    std::size_t max_dump_bytes() const {
        return estimate_copy_bytes() + large_bytes_.load(std::memory_order_relaxed);
    }

    // The number of pairs and the revision, as of the last batch of any thread.
    std::size_t size() const { return size_.load(std::memory_order_acquire); }
    std::uint64_t revision() const { return published_revision_.load(std::memory_order_acquire); }
    // The earliest time at which a pair expires; NO_EXPIRY if none does.
    std::uint64_t next_expiry() const { return next_expiry_.load(std::memory_order_relaxed); }

    // Remove at most `limit` of the pairs that expire at `now_ms` or before, the earliest first, as
    // one change; return their number. Throws std::bad_alloc; then nothing has changed.
    std::size_t expire(std::uint64_t now_ms, std::size_t limit) EXCLUDES(lock_) {
        if (next_expiry() > now_ms) return 0;
        auto change_batch = std::make_unique<ChangeBatch>();
        change_batch->call = next_call_.fetch_add(1, std::memory_order_relaxed);
        Removal removal;
        DroppedValues dropped;
        ScopedLock held(lock_);
        removal.find_earliest(*table_, now_ms, limit);
        if (!removal.size()) return 0;
        const bool is_recorded = recording_.load(std::memory_order_relaxed);
        if (is_recorded) {
            removal.reserve_copies();
            change_batch->lines.reserve_more(removal.record_bytes());
            change_batch->count = 1;
        }
        removal.collect_changes(watched_keys_, key_, change_batch->changes);
        removal.apply(*table_, key_);
        change_batch->revision = ++revision_;
        change_batch->origin = EXPIRY_ORIGIN;
        publish();
        dropped = table_->take_dropped();
        const bool has_garbage = table_->has_garbage();
        ChangeBatch* const pushed = change_batch.get();
        if (is_recorded || !pushed->changes.empty())
            change_queue_.push(std::move(change_batch), !is_recorded);
        held.unlock();
        if (is_recorded) {
            removal.write_record(pushed->lines);
            change_queue_.mark_complete(pushed);
        }
        if (has_garbage) release_garbage();
        return removal.size();
    }

    // Replace all pairs by these, which expire at the times `untils`, as one change; return its
    // revision. Throws std::bad_alloc; then nothing has changed.
    std::uint64_t replace(const std::vector<Key>& keys, const std::vector<Word>& values,
                          const std::vector<std::uint64_t>& untils) EXCLUDES(lock_) {
        assert(keys.size() == values.size() && keys.size() == untils.size());
        auto table = std::make_shared<Table>(key_);
        for (std::size_t i = 0; i < keys.size(); ++i)
            insert_pair(*table, keys[i], values[i], untils[i]);
        auto change_batch = std::make_unique<ChangeBatch>();
        change_batch->call = next_call_.fetch_add(1, std::memory_order_relaxed);
        std::vector<Change>& changes = change_batch->changes;
        const ScopedLock held(lock_);
        for (const auto& entry : watched_keys_.entries())
            append_replacement(entry.first, *table, changes);
        std::sort(changes.begin(), changes.end(),
                  [](const Change& left, const Change& right) { return left.key < right.key; });
        table_.swap(table);
        ++revision_;
        publish();
        if (!changes.empty()) change_queue_.push(std::move(change_batch), true);
        return revision_;
    }

    // Record changes as lines from now on; the next revision is `revision` + 1.
    void start_recording(std::uint64_t revision) EXCLUDES(lock_) {
        const ScopedLock held(lock_);
        recording_.store(true, std::memory_order_relaxed);
        revision_ = revision;
        publish();
    }

    // Report changes of `key` from now on; return whether the key exists. `marker`, if any, is
    // pushed before the first of these changes.
    bool watch(const std::string& key, std::unique_ptr<ChangeBatch> marker) EXCLUDES(lock_) {
        const ScopedLock held(lock_);
        watched_keys_.add(key);
        watching_.store(true, std::memory_order_relaxed);
        if (marker) {
            marker->revision = revision_;
            change_queue_.push(std::move(marker), true);
        }
        return table_->find(make_key(key)) != 0;
    }

    void unwatch(const std::string& key) EXCLUDES(lock_) {
        const ScopedLock held(lock_);
        watched_keys_.remove(key);
        watching_.store(!watched_keys_.empty(), std::memory_order_relaxed);
    }

    ChangeQueue& change_queue() { return change_queue_; }

    // Block until the change batches of all changes so far can be taken.
    void settle() EXCLUDES(lock_) {
        const ScopedLock held(lock_);
        change_queue_.wait_until_complete();
    }

    // From `lock_quiescent`, or a `try_lock_quiescent` that returns true, to `unlock`, nothing
    // changes and every change batch is complete. The thread may call the engine again in between.

    bool try_lock_quiescent() TRY_ACQUIRE(true, lock_) {
        if (!lock_.try_lock()) return false;
        if (!change_queue_.has_incomplete()) {
            lock_.own();
            return true;
        }
        lock_.unlock();
        return false;
    }

    void lock_quiescent() ACQUIRE(lock_) {
        lock_.lock();
        lock_.own();
        change_queue_.wait_until_complete();
    }

    void unlock() RELEASE(lock_) {
        lock_.disown();
        lock_.unlock();
    }

    const Table& table() const REQUIRES(lock_) { return *table_; }

    // Return `key` with its hash. The bytes of `key` must outlive the returned value.
    Key make_key(std::string_view key) const {
        // A key of 0 or of more than 1024 bytes is not a word: as a key of size 0 it equals no
        // other.
        const std::uint32_t size = key.size() > MAX_KEY_BYTES ? 0 : std::uint32_t(key.size());
        return {{key.data(), size},
                false,
                is_plain_word(key),
                siphash13(key_, key.data(), size),
                0,
                nullptr};
    }

private:
    // What a call keeps from one batch to the next.
    struct CallContext {
        std::shared_ptr<Table>
            table;  // of the last batch, to prefetch from; `replace` swaps the engine's
        std::unique_ptr<ChangeBatch>
            change_batch;               // allocated for the next batch that changes something
        std::optional<TableCopy> copy;  // memory for a SHOW, and then its records
        std::uint64_t call;
        std::uint64_t show_epoch;
    };

    // Counts a call in `active_calls_` as long as it runs.
    class ActiveCallGuard {
    public:
        explicit ActiveCallGuard(std::atomic<unsigned>& count) : count_(count) {
            count_.fetch_add(1, std::memory_order_relaxed);
        }
        ~ActiveCallGuard() { count_.fetch_sub(1, std::memory_order_relaxed); }

    private:
        std::atomic<unsigned>& count_;
    };

    // Bytes of records that mostly stay in the cache of a core that has the cache to itself.
    static constexpr std::size_t CACHE_RESIDENT_BYTES = std::size_t(8) << 20;

    // Return whether prefetching pays: the records are probably not in the cache, because they are
    // many or other cores change them. Elsewhere prefetching costs more than it saves.
    bool should_prefetch() const {
        return active_calls_.load(std::memory_order_relaxed) > 1 ||
               bytes_.load(std::memory_order_relaxed) > CACHE_RESIDENT_BYTES;
    }

    // Read a batch of lines and allocate what its execution needs. When there is too little memory,
    // read one line alone, so that the commands before the one that fails are executed.
    void read_batch(Call& call, LineBatch& batch, CallContext& context) {
        const char* const begin = call.script + call.offset;
        const char* const end = call.script + call.end;
        try {
            batch.read(begin, end);
            prepare_batch(call, batch, context);
        } catch (const std::bad_alloc&) {
            batch.read(begin, end, 1);
            prepare_batch(call, batch, context);
        }
    }

    void prepare_batch(Call& call, const LineBatch& batch, CallContext& context) {
        call.output.reserve_more(batch.max_output_bytes());
        if (call.invalid.capacity() < call.invalid.size() + batch.lines().size())
            call.invalid.reserve(2 * call.invalid.size() + batch.lines().size());
        if (batch.ends_in_show()) context.copy.emplace(estimate_copy_bytes(), batch.query());
        if (context.change_batch || has_consumers()) prepare_change_batch(call, batch, context);
    }

    // Execute a batch that was read; return false if a command had too little memory.
    bool execute_batch(Call& call, LineBatch& batch, CallContext& context) EXCLUDES(lock_) {
        if (context.table && should_prefetch()) batch.prefetch(*context.table);
        // Declared before the lock is: destroyed without the lock.
        std::shared_ptr<Table> replaced;
        DroppedValues dropped;
        ScopedLock held(lock_);
        while (!context.change_batch && has_consumers()) {  // the first consumer came meanwhile
            held.unlock();
            prepare_change_batch(call, batch, context);
            held.lock();
        }
        if (context.table != table_) {
            replaced.swap(context.table);
            context.table = table_;
            batch.clear_slot_hints();
        }
        const std::size_t output_before = call.output.size();
        std::vector<Change>* const changes =
            watched_keys_.empty() ? nullptr : &context.change_batch->changes;
        TextSpace space = text_space(call, batch, context);
        bool succeeded = batch.execute(
            {*context.table, watched_keys_, revision_, lock_.is_owned() ? nullptr : &table_},
            call.output_budget, changes, space, call.output);
        if (call.output.size() != output_before)
            succeeded = reserve_published_output(call, batch, context, output_before);
        if (succeeded && batch.stop() == Kind::SHOW) succeeded = context.copy->copy_from(*table_);
        call.revision = revision_;
        publish();
        dropped = table_->take_dropped();
        const bool has_garbage = table_->has_garbage() && !batch.changed_lines().empty();
        ChangeBatch* const incomplete = enqueue_change_batch(call, batch, context);
        held.unlock();
        if (incomplete) batch.write_record(incomplete->lines);
        batch.write(call.output);
        advance(call, batch);
        if (incomplete) finish_change_batch(call, batch, incomplete);
        if (has_garbage) release_garbage();
        return succeeded;
    }

    // Let the thread that made garbage give its memory back. A thread that sleeps until the lock is
    // free gets it in between: without a pause, the thread that releases a lock is the first to
    // have it again.
    void release_garbage() EXCLUDES(lock_) {
        for (bool has_more = true, has_sleepers = false; has_more;) {
            if (has_sleepers) std::this_thread::sleep_for(std::chrono::microseconds(50));
            const ScopedLock held(lock_);
            has_more = table_->release_garbage();
            has_sleepers = lock_.has_sleepers();
        }
    }

    // Append the output of a SHOW, whose records were copied under the lock.
    static void append_dump(Call& call, CallContext& context) {
        SortedDump dump(context.copy->pairs(), context.copy->query().shows_expiries);
        const std::size_t output_before = call.output.size();
        while (!dump.is_finished()) dump.append_block(call.output);
        call.output_budget -= static_cast<long long>(call.output.size() - output_before);
        context.copy.reset();
        ++context.show_epoch;
    }

    // Return whether a change batch has a reader. Exact under the lock, a hint without it.
    bool has_consumers() const {
        return recording_.load(std::memory_order_relaxed) ||
               watching_.load(std::memory_order_relaxed);
    }

    void prepare_change_batch(const Call& call, const LineBatch& batch, CallContext& context) {
        if (!context.change_batch) context.change_batch = std::make_unique<ChangeBatch>();
        context.change_batch->lines.reserve_more(batch.max_record_bytes());
        if (call.has_cursor)
            context.change_batch->output.reserve_more(
                call.output.size() - call.published_output_bytes + batch.max_output_bytes());
    }

    // Return the space that `prepare_batch` has reserved.
    TextSpace text_space(Call& call, const LineBatch& batch, const CallContext& context) const {
        TextSpace space(call.output, batch.max_output_bytes(), batch.max_output_line_bytes());
        if (context.change_batch && call.has_cursor)
            space.set_published(context.change_batch->output,
                                call.output.size() - call.published_output_bytes);
        if (context.change_batch && recording_.load(std::memory_order_relaxed))
            space.set_record(context.change_batch->lines, batch.max_record_bytes());
        return space;
    }

    // Reserve space in the change batch of a job call for the output of a long READ, whose size
    // is known only after its execution. With too little memory, undo the READ and return false.
    static bool reserve_published_output(Call& call, LineBatch& batch, CallContext& context,
                                         std::size_t output_before) {
        if (!context.change_batch || !call.has_cursor) return true;
        try {
            context.change_batch->output.reserve_more(call.output.size() -
                                                      call.published_output_bytes);
        } catch (const std::bad_alloc&) {
            call.output.truncate(output_before);
            batch.undo_read();
            return false;
        }
        return true;
    }

    // Push what the batch changed, if there is a consumer; return the change batch if its text must
    // still be written.
    ChangeBatch* enqueue_change_batch(const Call& call, const LineBatch& batch,
                                      CallContext& context) REQUIRES(lock_) {
        if (!context.change_batch) return nullptr;
        const bool recorded = recording_.load(std::memory_order_relaxed);
        const bool has_text = recorded && (call.has_cursor ? batch.executed_count() != 0
                                                           : !batch.changed_lines().empty());
        ChangeBatch* const change_batch = context.change_batch.get();
        if (!has_text && change_batch->changes.empty()) return nullptr;
        change_batch->call = context.call;
        change_batch->show_epoch = context.show_epoch;
        change_batch->revision = revision_;
        change_batch->origin = call.origin;
        change_batch->has_checkpoint = recorded && call.has_cursor;
        if (recorded) change_batch->count = batch.changed_lines().size();
        change_queue_.push(std::move(context.change_batch), !has_text);
        return has_text ? change_batch : nullptr;
    }

    // Count the executed lines and move the call's offset after them.
    static void advance(Call& call, const LineBatch& batch) {
        for (std::size_t i = 0; i < batch.executed_count(); ++i) {
            const Line& line = batch.lines()[i];
            assert(line.begin == call.script + call.offset && line.end > line.begin);
            if (line.kind == Kind::INVALID) {
                const char* const valid_until = batch.valid_until();
                call.invalid.push_back({std::size_t(line.begin - call.script),
                                        valid_until ? std::size_t(valid_until - call.script) : 0,
                                        line.fault});
            } else {
                call.commands += line.kind != Kind::IDLE;
            }
            call.offset = std::size_t(line.end - call.script);
        }
        call.lines += batch.executed_count();
        call.stop = batch.stop();
        if (call.stop == Kind::WAIT) call.wait_ms = batch.wait_ms();
    }

    // Write the checkpoint of a change batch, for which space is reserved, and release it to
    // consumers.
    void finish_change_batch(Call& call, const LineBatch& batch, ChangeBatch* change_batch) {
        if (change_batch->has_checkpoint) {
            // A SHOW, WAIT or BACKUP is not part of the checkpoint: its caller still has to act.
            const Line& last = batch.lines()[batch.executed_count() - 1];
            const char* const checkpoint = call.stop == Kind::IDLE ? last.end : last.begin;
            change_batch->job = call.job;
            change_batch->offset = call.base_offset + (checkpoint - call.script);
            change_batch->output.append(call.output.view_from(call.published_output_bytes));
            call.published_output_bytes = call.output.size();
        }
        change_queue_.mark_complete(change_batch);
    }

    // Append the change of a watched key by `replace`, if the key is in either table.
    void append_replacement(const std::string& key, const Table& after,
                            std::vector<Change>& changes) const REQUIRES(lock_) {
        const Key hashed = make_key(key);
        if (const RecordId id = after.find(hashed))
            changes.push_back({key, std::string(after.records()[id].value().view()), false});
        else if (table_->find(hashed))
            changes.push_back({key, std::string(), true});
    }

    // Copy the counters for threads that read them without the lock.
    void publish() REQUIRES(lock_) {
        size_.store(table_->size(), std::memory_order_release);           // pairs with `size`
        published_revision_.store(revision_, std::memory_order_release);  // pairs with `revision`
        next_expiry_.store(table_->earliest_expiry(), std::memory_order_relaxed);  // a hint
        bytes_.store(table_->copy_bytes(), std::memory_order_relaxed);  // only an estimate
        large_bytes_.store(table_->records().large_bytes(), std::memory_order_relaxed);
    }

    OwnedLock lock_;
    const HashKey key_;
    const std::string help_;
    std::shared_ptr<Table> table_ GUARDED_BY(lock_);
    std::uint64_t revision_ GUARDED_BY(lock_) = 0;
    WatchedKeys watched_keys_ GUARDED_BY(lock_);
    // Written under the lock, read with or without it; relaxed, because the lock orders what
    // counts.
    std::atomic<bool> recording_{false};
    std::atomic<bool> watching_{false};
    // Copies of counters, written by `publish`.
    std::atomic<std::size_t> size_{0};
    std::atomic<std::uint64_t> published_revision_{0};
    std::atomic<std::uint64_t> next_expiry_{NO_EXPIRY};
    std::atomic<std::size_t> bytes_{0};
    std::atomic<std::size_t> large_bytes_{0};

    std::atomic<std::uint64_t> next_call_{1};  // an ID; 0 is of no call
    std::atomic<unsigned> active_calls_{0};    // a hint
    ChangeQueue change_queue_;
};

}  // namespace kvs

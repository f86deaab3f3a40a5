// The engine: the table and its lock, and the calls that carry out scripts on it.
//
// State and locks: `lock_` guards the table, the revision, what is watched and whether lines are
// recorded; it is held for a batch of commands at a time. `size_` and `published_` are copies for
// who only wants to know. `effects_` has a lock of its own, inside that one or alone.
//
// Locking: nothing here calls Python or needs the interpreter's lock. Whatever takes `lock_` is called
// without the interpreter's lock, but for `try_hold`, which does not block.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "batch.hpp"
#include "change_queue.hpp"
#include "table_dump.hpp"
#include "owned.hpp"

namespace kvs {

// One call of `Engine::execute`: what is to be done, and what has come of it. Used by one thread.
struct Call {
    // The byte behind the script is NUL; the script stays where it is.
    Call(const char* script, std::size_t size, std::size_t start, std::size_t budget)
        : script(script), start(start), offset(start), size(size), end(size) {
        room = static_cast<long long>(budget);
        if (budget < size - start)
            if (const void* newline = std::memchr(script + start + budget, '\n', size - start - budget))
                end = std::size_t(static_cast<const char*>(newline) - script) + 1;
    }

    void mark(long long of_job, long long from) {
        marked = true;
        job = of_job;
        base = from;
    }

    bool over() const {
        return offset >= end || room < 0 || stop == Kind::WAIT || stop == Kind::BACKUP ||
               (stop == Kind::SHOW && marked);
    }

    const char* const script;
    const std::size_t start;
    std::size_t offset;
    const std::size_t size;
    std::size_t end;  // of the first line that goes past the budget of input
    long long room;   // bytes of output left of the budget; below 0, it is over
    bool marked = false;
    long long job = 0;
    long long base = 0;

    Kind stop = Kind::IDLE;
    std::uint64_t milliseconds = 0;
    Buffer output;
    std::size_t told = 0;  // so much of the output is in the effects of a marked call
    std::vector<Invalid> invalid;
    std::size_t commands = 0;
    std::size_t lines = 0;
    std::uint64_t revision = 0;
};

class Engine {
public:
    // Throws std::bad_alloc.
    Engine(HashKey key, std::string help)
        : key_(key), help_(std::move(help)), table_(std::make_shared<Table>()), watched_(key) {}

    // Carry out commands until the call is over; throws std::bad_alloc, for a command that has not
    // been carried out, when those before it have been.
    void execute(Call& call) {
        const Counted counted(calls_);
        Batch batch(Grammar(key_, call.script + call.size), help_);
        Turn turn{};
        turn.call = next_call_.fetch_add(1, std::memory_order_relaxed);
        call.revision = revision();
        while (!call.over()) {
            read(call, batch, turn);
            if (!carry_out(call, batch, turn)) throw std::bad_alloc();
            if (call.stop == Kind::SHOW) {
                Listing listing(turn.copy->spans(), turn.copy->count());
                const std::size_t before = call.output.size();
                while (!listing.ended()) listing.put_block(call.output);
                call.room -= static_cast<long long>(call.output.size() - before);
                turn.copy.reset();
                ++turn.leg;
            }
        }
    }

    // Give the values of `keys` as they are at one instant; size 0 where one is missing.
    void get(const std::vector<Key>& keys, std::vector<Value>& values) {
        values.resize(keys.size());
        const std::lock_guard<OwnedLock> held(lock_);
        for (std::size_t i = 0; i < keys.size(); ++i) {
            values[i].size = 0;
            if (const Ref ref = table_->find(keys[i])) table_->records()[ref].copy_value(values[i]);
        }
    }

    // Copy everything. Throws std::bad_alloc.
    void copy(Copy& copy) {
        const std::lock_guard<OwnedLock> held(lock_);
        if (!copy.take(*table_)) throw std::bad_alloc();
    }

    // What a copy of everything will probably take.
    std::size_t probable_bytes() const {
        const std::size_t bytes = bytes_.load(std::memory_order_relaxed);
        return bytes + bytes / 16 + 4096;
    }

    std::size_t size() const { return size_.load(std::memory_order_acquire); }
    std::uint64_t revision() const { return published_.load(std::memory_order_acquire); }

    // Let these pairs be everything; returns the revision.
    std::uint64_t replace(const std::vector<Key>& keys, const std::vector<Word>& values) {
        auto table = std::make_shared<Table>();
        for (std::size_t i = 0; i < keys.size(); ++i) {
            table->make_room(&keys[i], 1);
            table->put(keys[i], values[i]);
        }
        auto effect = std::make_unique<Effect>();
        effect->call = next_call_.fetch_add(1, std::memory_order_relaxed);
        const std::lock_guard<OwnedLock> held(lock_);
        for (const auto& each : watched_.keys()) put_replaced(each.first, *table, effect->changes);
        std::sort(effect->changes.begin(), effect->changes.end(),
                  [](const Change& one, const Change& other) { return one.key < other.key; });
        table_.swap(table);
        ++revision_;
        publish();
        if (!effect->changes.empty()) effects_.put(std::move(effect), true);
        return revision_;
    }

    void record(std::uint64_t revision) {
        const std::lock_guard<OwnedLock> held(lock_);
        recording_.store(true, std::memory_order_relaxed);
        revision_ = revision;
        publish();
    }

    // Return whether it is there. `marker` stands in the effects where the watch begins.
    bool watch(const std::string& key, std::unique_ptr<Effect> marker) {
        const std::lock_guard<OwnedLock> held(lock_);
        watched_.add(key);
        watching_.store(true, std::memory_order_relaxed);
        if (marker) {
            marker->revision = revision_;
            effects_.put(std::move(marker), true);
        }
        return table_->find(hashed(key)) != 0;
    }

    void unwatch(const std::string& key) {
        const std::lock_guard<OwnedLock> held(lock_);
        watched_.remove(key);
        watching_.store(!watched_.none(), std::memory_order_relaxed);
    }

    Effects& effects() { return effects_; }

    // Wait until all effects up to now can be taken.
    void settle() {
        const std::lock_guard<OwnedLock> held(lock_);
        effects_.wait_until_complete();
    }

    // An instant: from `hold` or a `try_hold` that succeeds to `let_go`, nothing changes, and all
    // effects up to it are complete.

    bool try_hold() {
        if (!lock_.try_lock()) return false;
        if (!effects_.incomplete()) {
            lock_.own();
            return true;
        }
        lock_.unlock();
        return false;
    }

    void hold() {
        lock_.lock();
        lock_.own();
        effects_.wait_until_complete();
    }

    void let_go() {
        lock_.disown();
        lock_.unlock();
    }

    const Table& table() const { return *table_; }

    // The bytes of `key` stay where they are as long as this is used.
    Key hashed(std::string_view key) const {
        // Longer ones, and those of no bytes, are no words, and equal to none.
        const std::uint8_t size = key.size() > WORD_BYTES ? 0 : std::uint8_t(key.size());
        return {{key.data(), size}, false, siphash13(key_, key.data(), key.size()), 0, nullptr};
    }

private:
    // What a call keeps from batch to batch.
    struct Turn {
        std::shared_ptr<Table> table;  // to prefetch from; the engine may have another by now
        std::unique_ptr<Effect> effect;  // ready for the next batch that has any
        std::optional<Copy> copy;        // for a SHOW
        std::uint64_t call;
        std::uint64_t leg;
    };

    // One of several things that go on at a time, for as long as it lives.
    class Counted {
    public:
        explicit Counted(std::atomic<unsigned>& count) : count_(count) {
            count_.fetch_add(1, std::memory_order_relaxed);
        }
        ~Counted() { count_.fetch_sub(1, std::memory_order_relaxed); }

    private:
        std::atomic<unsigned>& count_;
    };

    // Bytes of records of which most stay in the cache of a core that has them to itself.
    static constexpr std::size_t NEAR = std::size_t(8) << 20;

    // Whether what commands look at is probably not in the cache, so that it pays to fetch it before.
    bool is_far() const {
        return calls_.load(std::memory_order_relaxed) > 1 ||
               bytes_.load(std::memory_order_relaxed) > NEAR;
    }

    // Carry out a batch that has been read; return false if memory was not enough for a command.
    bool carry_out(Call& call, Batch& batch, Turn& turn) {
        if (turn.table && is_far()) batch.prefetch(*turn.table);
        std::shared_ptr<Table> before;  // dropped, if it is the last that holds it, without the lock
        std::unique_lock<OwnedLock> held(lock_);
        while (!turn.effect && wants_effects()) {  // only since a moment
            held.unlock();
            make_effect(call, batch, turn);
            held.lock();
        }
        if (turn.table != table_) {
            before.swap(turn.table);
            turn.table = table_;
            batch.forget_seen();
        }
        const std::size_t written = call.output.size();
        bool enough = batch.carry_out({*table_, watched_, revision_}, call.room,
                                      watched_.none() ? nullptr : &turn.effect->changes,
                                      call.output);
        if (call.output.size() != written) enough = make_room_to_tell(call, batch, turn, written);
        if (enough && batch.stop() == Kind::SHOW) enough = turn.copy->take(*table_);
        call.revision = revision_;
        publish();
        Effect* const incomplete = put_effect(call, batch, turn);
        held.unlock();
        batch.write(call.output);
        came_to(call, batch);
        if (incomplete) complete(call, batch, incomplete);
        return enough;
    }

    // Read a batch, and make ready for it. One line alone, if there is not enough memory for more: so
    // those before the one that fails are carried out.
    void read(Call& call, Batch& batch, Turn& turn) {
        const char* const at = call.script + call.offset;
        const char* const end = call.script + call.end;
        try {
            batch.read(at, end);
            prepare(call, batch, turn);
        } catch (const std::bad_alloc&) {
            batch.read(at, end, 1);
            prepare(call, batch, turn);
        }
    }

    void prepare(Call& call, const Batch& batch, Turn& turn) {
        call.output.make_room(batch.most_output());
        if (call.invalid.capacity() < call.invalid.size() + batch.lines().size())
            call.invalid.reserve(2 * call.invalid.size() + batch.lines().size());
        if (batch.shows()) turn.copy.emplace(probable_bytes());
        if (turn.effect || wants_effects()) make_effect(call, batch, turn);
    }

    bool wants_effects() const {
        return recording_.load(std::memory_order_relaxed) ||
               watching_.load(std::memory_order_relaxed);
    }

    void make_effect(const Call& call, const Batch& batch, Turn& turn) {
        if (!turn.effect) turn.effect = std::make_unique<Effect>();
        turn.effect->lines.make_room(batch.bytes() + 1);
        if (call.marked)
            turn.effect->output.make_room(call.output.size() - call.told + batch.most_output());
    }

    // Make room for what a long READ has written, which is known only now, in the effect of a marked
    // call; take it back and return false if there is not enough memory.
    static bool make_room_to_tell(Call& call, Batch& batch, Turn& turn, std::size_t written) {
        if (!turn.effect || !call.marked) return true;
        try {
            turn.effect->output.make_room(call.output.size() - call.told);
        } catch (const std::bad_alloc&) {
            call.output.cut(written);
            batch.take_back();
            return false;
        }
        return true;
    }

    // Put in what the batch has changed, if anybody is to know; return it if it is incomplete.
    Effect* put_effect(const Call& call, const Batch& batch, Turn& turn) {
        if (!turn.effect) return nullptr;
        const bool recorded = recording_.load(std::memory_order_relaxed);
        const bool incomplete =
            recorded && (call.marked ? batch.done() != 0 : !batch.changed().empty());
        Effect* const effect = turn.effect.get();
        if (!incomplete && effect->changes.empty()) return nullptr;
        effect->call = turn.call;
        effect->leg = turn.leg;
        effect->revision = revision_;
        effect->marked = recorded && call.marked;
        if (recorded) effect->count = batch.changed().size();
        effects_.put(std::move(turn.effect), !incomplete);
        return incomplete ? effect : nullptr;
    }

    static void came_to(Call& call, const Batch& batch) {
        for (std::size_t i = 0; i < batch.done(); ++i) {
            const Line& line = batch.lines()[i];
            if (line.kind == Kind::INVALID)
                call.invalid.push_back({std::size_t(line.begin - call.script),
                                        batch.good() ? std::size_t(batch.good() - call.script) : 0});
            else
                call.commands += line.kind != Kind::IDLE;
            call.offset = std::size_t(line.end - call.script);
        }
        call.lines += batch.done();
        call.stop = batch.stop();
        if (call.stop == Kind::WAIT) call.milliseconds = batch.milliseconds();
    }

    void complete(Call& call, const Batch& batch, Effect* effect) {
        for (const std::size_t number : batch.changed()) {
            const Line& line = batch.lines()[number];
            effect->lines.put({line.begin, std::size_t(line.end - line.begin)});
            // The end of a script is that of a line, too.
            if (line.end[-1] != '\n') effect->lines.put('\n');
        }
        if (effect->marked) {
            const Line& last = batch.lines()[batch.done() - 1];
            const char* const told = call.stop == Kind::IDLE ? last.end : last.begin;
            effect->job = call.job;
            effect->offset = call.base + (told - call.script);
            effect->output.put(call.output.from(call.told));
            call.told = call.output.size();
        }
        effects_.complete(effect);
    }

    void put_replaced(const std::string& key, const Table& after, std::vector<Change>& changes) {
        const Key hashed_key = hashed(key);
        if (const Ref ref = after.find(hashed_key))
            changes.push_back({key, std::string(after.records()[ref].value().view()), false});
        else if (table_->find(hashed_key))
            changes.push_back({key, std::string(), true});
    }

    // Let those know who look without the lock.
    void publish() {
        size_.store(table_->size(), std::memory_order_release);
        published_.store(revision_, std::memory_order_release);
        bytes_.store(table_->records().bytes(), std::memory_order_relaxed);
    }

    OwnedLock lock_;
    const HashKey key_;
    const std::string help_;
    std::shared_ptr<Table> table_;
    std::uint64_t revision_ = 0;
    Watched watched_;
    std::atomic<bool> recording_{false};  // these two are written under the lock
    std::atomic<bool> watching_{false};
    std::atomic<std::size_t> size_{0};
    std::atomic<std::uint64_t> published_{0};
    std::atomic<std::size_t> bytes_{0};
    std::atomic<std::uint64_t> next_call_{1};
    std::atomic<unsigned> calls_{0};  // that are under way
    Effects effects_;
};

}  // namespace kvs

// Change batches on their way from the engine to the journal and the subscribers, in the one order
// of changes.
//
// How it works: a call pushes what its batch of lines changed while it holds the engine's lock, so
// the queue is in the order in which the batches were executed. The text of a change batch
// (recorded lines, a job call's output) takes longer to write than the commands take to execute.
// So the same thread writes the text after it has released the engine's lock, and then marks the
// change batch as complete. A consumer takes the complete change batches at the front.
//
// Invariants:
//   - An incomplete change batch, and every one after it, must not be taken: the order would have
//   a
//     gap. Only the pushing thread writes to it.
//   - The pushing thread must not wait for another thread between `push` and `mark_complete`. So a
//     thread that holds the engine's lock may wait for the queue to be complete, and then has every
//     change so far.
//   - A complete change batch belongs to its taker, which may destroy it at once.
//
// Limits: one slow call delays the publication of all calls after it, by the time that the text of
// one batch of lines takes, or of one long line.
#pragma once

#include <atomic>
#include <cassert>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "buffer.hpp"
#include "lock.hpp"
#include "watched_keys.hpp"

namespace kvs {

// The origin of changes by `Engine::expire`; see `kvs.engine.interface`.
constexpr std::uint64_t EXPIRY_ORIGIN = 1;

// What one batch of lines changed. `kvs.engine.interface.ChangeBatch` describes the fields; Python
// sees adjacent change batches of one call as one.
struct ChangeBatch {
    std::unique_ptr<ChangeBatch> next;
    std::atomic<bool> is_complete{false};

    std::uint64_t call = 0;        // the ID of the call; 0 for a marker
    std::uint64_t show_epoch = 0;  // SHOWs that the call had executed before

    std::uint64_t marker = 0;  // the marker of a watch that begins here, or 0
    std::uint64_t origin = 0;  // of the call
    std::vector<Change> changes;
    Buffer lines;
    std::uint64_t count = 0;  // of lines
    std::uint64_t revision = 0;
    bool has_checkpoint = false;  // whether the next three have a value
    long long job = 0;
    long long offset = 0;
    Buffer output;

    // Return whether this and `previous`, which is just before it, may be merged: both are of one
    // call, with no SHOW between them.
    bool is_mergeable_with(const ChangeBatch& previous) const {
        return call && call == previous.call && show_epoch == previous.show_epoch;
    }
};

class ChangeQueue {
public:
    // Append a change batch. To be called with the engine's lock held, which makes the order.
    void push(std::unique_ptr<ChangeBatch> batch, bool is_complete) EXCLUDES(lock_) {
        // Relaxed: `lock_` publishes the change batch and this field of it.
        batch->is_complete.store(is_complete, std::memory_order_relaxed);
        // Relaxed: read as 0 by no thread that holds the engine's lock next, which publishes it.
        if (!is_complete) incomplete_count_.fetch_add(1, std::memory_order_relaxed);
        const ScopedLock held(lock_);
        assert(!batch->next && bool(first_) == bool(last_));
        ChangeBatch* const last = batch.get();
        (last_ ? last_->next : first_) = std::move(batch);
        last_ = last;
        is_nonempty_.store(true, std::memory_order_relaxed);  // a hint for `has_ready`
    }

    // Release `batch` to consumers. The caller must not touch it any more: its taker may destroy
    // it.
    void mark_complete(ChangeBatch* batch) {
        assert(!batch->is_complete.load(std::memory_order_relaxed));
        // Pairs with the loads of `has_ready` and `take_ready`: the taker sees the whole text.
        batch->is_complete.store(true, std::memory_order_release);
        // Pairs with the loads of `wait_until_complete` and `has_incomplete`: after 0, the caller
        // of these finds every change batch complete.
        [[maybe_unused]] const std::size_t before =
            incomplete_count_.fetch_sub(1, std::memory_order_release);
        assert(before != 0);
    }

    // Block until all change batches are complete, which other threads soon make them. To be called
    // with the engine's lock held: no thread can push meanwhile.
    void wait_until_complete() const {
        for (int tries = 0; incomplete_count_.load(std::memory_order_acquire); ++tries)
            tries < spin_count() ? cpu_pause() : std::this_thread::yield();
    }

    bool has_incomplete() const { return incomplete_count_.load(std::memory_order_acquire); }

    // Return whether a change batch can be taken.
    bool has_ready() EXCLUDES(lock_) {
        if (!is_nonempty_.load(std::memory_order_relaxed)) return false;
        const ScopedLock held(lock_);
        return first_ && first_->is_complete.load(std::memory_order_acquire);
    }

    // Remove the complete change batches before the first incomplete one, and return them, linked
    // by `next`.
    std::unique_ptr<ChangeBatch> take_ready() EXCLUDES(lock_) {
        const ScopedLock held(lock_);
        ChangeBatch* last_ready = nullptr;
        for (ChangeBatch* batch = first_.get();
             batch && batch->is_complete.load(std::memory_order_acquire); batch = batch->next.get())
            last_ready = batch;
        if (!last_ready) return nullptr;
        std::unique_ptr<ChangeBatch> taken = std::move(first_);
        first_ = std::move(last_ready->next);
        if (!first_) last_ = nullptr;
        is_nonempty_.store(bool(first_), std::memory_order_relaxed);
        return taken;
    }

    // Insert change batches that were taken, but not used, before all others.
    void put_back(std::unique_ptr<ChangeBatch> taken) EXCLUDES(lock_) {
        ChangeBatch* last_taken = taken.get();
        if (!last_taken) return;
        while (last_taken->next) last_taken = last_taken->next.get();
        const ScopedLock held(lock_);
        last_taken->next = std::move(first_);
        first_ = std::move(taken);
        if (!last_) last_ = last_taken;
        is_nonempty_.store(true, std::memory_order_relaxed);
    }

    ~ChangeQueue() { destroy(std::move(first_)); }

    // Destroy linked change batches one after the other. Destroyed by each other, they would need a
    // stack frame each.
    static void destroy(std::unique_ptr<ChangeBatch> batches) {
        while (batches) batches = std::move(batches->next);
    }

private:
    SpinThenSleepLock lock_;  // a leaf; see lock.hpp
    std::unique_ptr<ChangeBatch> first_ GUARDED_BY(lock_);
    ChangeBatch* last_ GUARDED_BY(lock_) = nullptr;
    std::atomic<bool> is_nonempty_{false};  // written under `lock_`
    std::atomic<std::size_t> incomplete_count_{0};
};

}  // namespace kvs

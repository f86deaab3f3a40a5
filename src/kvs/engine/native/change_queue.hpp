// What commands have changed, on its way out, in the one order of changes.
//
// Laws: what a batch has changed is put in under the engine's lock, so the order is that of the
// batches. Its text (recorded lines, a marked call's output) may be completed after that lock has been
// let go, by the thread that put it in, without waiting for anybody. Only what stands before all
// that is incomplete can be taken. So whoever sees nothing incomplete while holding the engine's
// lock has everything up to now.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "buffer.hpp"
#include "lock.hpp"
#include "watched_keys.hpp"

namespace kvs {

struct Effect {
    std::unique_ptr<Effect> next;
    std::atomic<bool> complete{false};

    // Effects of one call, between two SHOWs, that stand side by side are told as one.
    std::uint64_t call = 0;
    std::uint64_t leg = 0;

    std::uint64_t marker = 0;  // of a watch that begins here; else 0
    std::vector<Change> changes;
    Buffer lines;
    std::uint64_t count = 0;
    std::uint64_t revision = 0;
    bool marked = false;
    long long job = 0;
    long long offset = 0;
    Buffer output;

    bool continues(const Effect& before) const {
        return call && call == before.call && leg == before.leg;  // a marker is of no call
    }
};

class Effects {
public:
    // To be called with the engine's lock held.
    void put(std::unique_ptr<Effect> effect, bool complete) {
        effect->complete.store(complete, std::memory_order_relaxed);
        if (!complete) incomplete_.fetch_add(1, std::memory_order_relaxed);
        lock_.lock();
        Effect* const last = effect.get();
        (last_ ? last_->next : first_) = std::move(effect);
        last_ = last;
        any_.store(true, std::memory_order_relaxed);
        lock_.unlock();
    }

    // The caller must not touch `effect` any more: whoever takes it may drop it.
    void complete(Effect* effect) {
        effect->complete.store(true, std::memory_order_release);
        incomplete_.fetch_sub(1, std::memory_order_release);
    }

    // To be called with the engine's lock held: nothing new comes, and what is there is soon complete.
    void wait_until_complete() const {
        for (int looks = 0; incomplete_.load(std::memory_order_acquire); ++looks)
            looks < spins() ? relax() : std::this_thread::yield();
    }

    bool incomplete() const { return incomplete_.load(std::memory_order_acquire); }

    // Whether any can be taken.
    bool any() {
        if (!any_.load(std::memory_order_relaxed)) return false;
        lock_.lock();
        const bool some = first_ && first_->complete.load(std::memory_order_acquire);
        lock_.unlock();
        return some;
    }

    // Take all that can be.
    std::unique_ptr<Effect> take() {
        lock_.lock();
        Effect* end = nullptr;
        for (Effect* each = first_.get(); each && each->complete.load(std::memory_order_acquire);
             each = each->next.get())
            end = each;
        std::unique_ptr<Effect> taken;
        if (end) {
            taken = std::move(first_);
            first_ = std::move(end->next);
            if (!first_) last_ = nullptr;
            any_.store(bool(first_), std::memory_order_relaxed);
        }
        lock_.unlock();
        return taken;
    }

    // Put back, in front of all others, what was taken in vain.
    void put_back(std::unique_ptr<Effect> taken) {
        Effect* end = taken.get();
        if (!end) return;
        while (end->next) end = end->next.get();
        lock_.lock();
        end->next = std::move(first_);
        first_ = std::move(taken);
        if (!last_) last_ = end;
        any_.store(true, std::memory_order_relaxed);
        lock_.unlock();
    }

    ~Effects() { drop(std::move(first_)); }

    // One after the other: dropped by each other, many would need a deep stack.
    static void drop(std::unique_ptr<Effect> effects) {
        while (effects) effects = std::move(effects->next);
    }

private:
    Lock lock_;  // a leaf; see lock.hpp
    std::unique_ptr<Effect> first_;
    Effect* last_ = nullptr;
    std::atomic<bool> any_{false};
    std::atomic<std::size_t> incomplete_{0};
};

}  // namespace kvs

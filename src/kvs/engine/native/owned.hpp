// A lock that its holder may take again, if the holder has declared itself the owner by `own`.
//
// `own` is for a caller that runs Python while it holds the lock: a finalizer or a signal handler
// may run in the same thread and call the engine. All other holders run no Python, and use `lock`
// alone.
#pragma once

#include <atomic>
#include <cassert>

#include "lock.hpp"

namespace kvs {

class CAPABILITY("mutex") OwnedLock {
public:
    bool try_lock() TRY_ACQUIRE(true) NO_THREAD_SAFETY_ANALYSIS {
        return reenter() || lock_.try_lock();
    }

    void lock() ACQUIRE() NO_THREAD_SAFETY_ANALYSIS {
        if (!reenter()) lock_.lock();
    }

    void unlock() RELEASE() NO_THREAD_SAFETY_ANALYSIS {
        if (!leave()) lock_.unlock();
    }

    // Return whether this thread, which has taken the lock, has declared itself the owner.
    bool is_owned() const { return owner_.load(std::memory_order_relaxed) == this_thread(); }

    bool has_sleepers() const { return lock_.has_sleepers(); }

    // Allow this thread, which has just taken the lock, to take it again; until `disown`, which
    // must be called before the thread releases the lock.
    void own() REQUIRES(this) {
        if (depth_) return;  // declared by an outer call of this thread
        assert(!owner_.load(std::memory_order_relaxed));
        // Relaxed, here and in `disown`: only the storing thread can find its own ID in `owner_`,
        // and a thread reads its own stores in program order.
        owner_.store(this_thread(), std::memory_order_relaxed);
    }

    void disown() REQUIRES(this) {
        if (!depth_) owner_.store(nullptr, std::memory_order_relaxed);
    }

private:
    bool reenter() {
        if (owner_.load(std::memory_order_relaxed) != this_thread()) return false;
        ++depth_;
        return true;
    }

    bool leave() {
        if (!depth_ || owner_.load(std::memory_order_relaxed) != this_thread()) return false;
        --depth_;
        return true;
    }

    static const void* this_thread() {
        static thread_local char id;
        return &id;
    }

    SpinThenSleepLock lock_;
    std::atomic<const void*> owner_{nullptr};
    unsigned depth_ =
        0;  // times that the owner holds the lock beyond the first; written by the owner
};

}  // namespace kvs

// A lock that a thread may take again while it holds it by `own`.
//
// `own` is for a caller that runs Python while it holds the lock: a finalizer or a signal handler may
// run there, in the same thread, and call the engine. All other holders run no Python, and use `lock`.
#pragma once

#include <atomic>

#include "lock.hpp"

namespace kvs {

class OwnedLock {
public:
    bool try_lock() { return enter() || lock_.try_lock(); }

    void lock() {
        if (!enter()) lock_.lock();
    }

    void unlock() {
        if (!leave()) lock_.unlock();
    }

    // To be called by the thread that has just locked it, and ended by `disown` before it unlocks.
    void own() {
        if (!depth_) owner_.store(self(), std::memory_order_relaxed);
    }

    void disown() {
        if (!depth_) owner_.store(nullptr, std::memory_order_relaxed);
    }

private:
    // Only the owner itself finds itself in `owner_`, so `depth_` is its own.
    bool enter() {
        if (owner_.load(std::memory_order_relaxed) != self()) return false;
        ++depth_;
        return true;
    }

    bool leave() {
        if (!depth_ || owner_.load(std::memory_order_relaxed) != self()) return false;
        --depth_;
        return true;
    }

    static const void* self() {
        static thread_local char here;
        return &here;
    }

    Lock lock_;
    std::atomic<const void*> owner_{nullptr};
    unsigned depth_ = 0;  // of locks within `own`
};

}  // namespace kvs

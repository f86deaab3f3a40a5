// A lock that is held for microseconds as a rule: a waiting thread spins for a while, then sleeps.
//
// Locking: there are two locks of this class, and the interpreter's lock beside them.
//   - The engine's lock may be held for long, and its holder may wait for the interpreter's lock
//     (`with_locked_view`). So a thread that holds the interpreter's lock must never block on the
//     engine's lock.
//   - The lock of `ChangeQueue` is a leaf: its holder blocks on nothing and runs a few
//   instructions,
//     so a thread may wait for it whatever else the thread holds.
//
// fork(2) never finds the leaf locked: `has_ready`, `take_ready` and `put_back` are called with the
// interpreter's lock held, which the forking thread holds; `push` is called with the engine's lock
// held, which the forking thread holds within `with_locked_view`.
#pragma once

#include <atomic>
#include <cassert>
#include <cstdint>
#include <thread>

#include "thread_annotations.hpp"

#if defined(__linux__) && !defined(KVS_PORTABLE)  // as in scan.hpp
#define KVS_FUTEX
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <mutex>
#endif

namespace kvs {

// Tell the processor that this thread spins.
inline void cpu_pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Times that a waiting thread tries before it sleeps: a few times as long as a batch takes; 0 on a
// machine with one processor.
inline int spin_count() {
    static const int count = std::thread::hardware_concurrency() > 1 ? 1000 : 0;
    return count;
}

#ifdef KVS_FUTEX

// futex(2); the three states are those of Drepper's "Futexes Are Tricky", 2011.
class CAPABILITY("mutex") SpinThenSleepLock {
public:
    bool try_lock() TRY_ACQUIRE(true) NO_THREAD_SAFETY_ANALYSIS {
        std::uint32_t expected = FREE;
        return state_.compare_exchange_strong(expected, HELD, std::memory_order_acquire,
                                              std::memory_order_relaxed);
    }

    void lock() ACQUIRE() NO_THREAD_SAFETY_ANALYSIS {
        for (int tries_left = spin_count(); tries_left >= 0; --tries_left) {
            if (state_.load(std::memory_order_relaxed) == FREE && try_lock()) return;
            cpu_pause();
        }
        while (state_.exchange(CONTENDED, std::memory_order_acquire) != FREE)
            futex(FUTEX_WAIT_PRIVATE, CONTENDED);
    }

    void unlock() RELEASE() NO_THREAD_SAFETY_ANALYSIS {
        // Pairs with the acquire operations of `try_lock` and `lock`.
        const std::uint32_t before = state_.exchange(FREE, std::memory_order_release);
        assert(before != FREE);
        if (before == CONTENDED) futex(FUTEX_WAKE_PRIVATE, 1);
    }

    // Return whether a thread probably sleeps until the caller, who holds the lock, releases it.
    bool has_sleepers() const { return state_.load(std::memory_order_relaxed) == CONTENDED; }

private:
    static constexpr std::uint32_t FREE = 0, HELD = 1, CONTENDED = 2;

    void futex(int operation, std::uint32_t value) {
        syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&state_), operation, value, nullptr,
                nullptr, 0);
    }

    std::atomic<std::uint32_t> state_{FREE};
};

#else

class CAPABILITY("mutex") SpinThenSleepLock {
public:
    bool try_lock() TRY_ACQUIRE(true) NO_THREAD_SAFETY_ANALYSIS { return mutex_.try_lock(); }

    void lock() ACQUIRE() NO_THREAD_SAFETY_ANALYSIS {
        for (int tries_left = spin_count(); tries_left >= 0; --tries_left) {
            if (mutex_.try_lock()) return;
            cpu_pause();
        }
        sleepers_.fetch_add(1, std::memory_order_relaxed);
        mutex_.lock();
        sleepers_.fetch_sub(1, std::memory_order_relaxed);
    }

    void unlock() RELEASE() NO_THREAD_SAFETY_ANALYSIS { mutex_.unlock(); }

    bool has_sleepers() const { return sleepers_.load(std::memory_order_relaxed); }

private:
    std::mutex mutex_;
    std::atomic<int> sleepers_{0};
};

#endif

// Holds a lock until the end of its scope, but for times between `unlock` and `lock`. Stands for
// std::unique_lock, which the standard library does not annotate.
template <typename Lock>
class SCOPED_CAPABILITY ScopedLock {
public:
    explicit ScopedLock(Lock& lock) ACQUIRE(lock) : lock_(lock) { lock_.lock(); }
    ScopedLock(const ScopedLock&) = delete;
    ScopedLock& operator=(const ScopedLock&) = delete;

    ~ScopedLock() RELEASE() {
        if (is_held_) lock_.unlock();
    }

    void lock() ACQUIRE() {
        lock_.lock();
        is_held_ = true;
    }

    void unlock() RELEASE() {
        is_held_ = false;
        lock_.unlock();
    }

private:
    Lock& lock_;
    bool is_held_ = true;
};

}  // namespace kvs

// A lock that is mostly held for microseconds: whoever waits spins for some, and then sleeps.
//
// Locking: there are two of this class. The engine's lock may be held for long, and its holder may
// wait for the interpreter's lock (`at_instant`); so no thread that holds the interpreter's lock may
// block on the engine's. The lock of `Effects` is a leaf: its holder blocks on nothing and runs a
// few instructions, so a thread may wait for it whatever it holds. `any`, `take` and `put_back` are
// called with the interpreter's lock held, and so a fork, which holds that one, never finds the
// leaf locked by them; `put` is called with the engine's lock held, which a fork at an instant holds.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>

#if defined(__linux__) && !defined(KVS_PORTABLE)  // as in scan.hpp
#define KVS_FUTEX
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <mutex>
#endif

namespace kvs {

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// So often a waiter looks before it sleeps: some times as long as a batch takes.
inline int spins() {
    static const int count = std::thread::hardware_concurrency() > 1 ? 1000 : 0;
    return count;
}

#ifdef KVS_FUTEX

// futex(2); the three states are those of Drepper's "Futexes are tricky".
class Lock {
public:
    bool try_lock() {
        std::uint32_t expected = FREE;
        return state_.compare_exchange_strong(expected, HELD, std::memory_order_acquire,
                                              std::memory_order_relaxed);
    }

    void lock() {
        for (int left = spins(); left >= 0; --left) {
            if (state_.load(std::memory_order_relaxed) == FREE && try_lock()) return;
            relax();
        }
        while (state_.exchange(AWAITED, std::memory_order_acquire) != FREE)
            call(FUTEX_WAIT_PRIVATE, AWAITED);
    }

    void unlock() {
        if (state_.exchange(FREE, std::memory_order_release) == AWAITED) call(FUTEX_WAKE_PRIVATE, 1);
    }

private:
    static constexpr std::uint32_t FREE = 0, HELD = 1, AWAITED = 2;

    void call(int operation, std::uint32_t value) {
        syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&state_), operation, value, nullptr,
                nullptr, 0);
    }

    std::atomic<std::uint32_t> state_{FREE};
};

#else

class Lock {
public:
    bool try_lock() { return mutex_.try_lock(); }

    void lock() {
        for (int left = spins(); left >= 0; --left) {
            if (mutex_.try_lock()) return;
            relax();
        }
        mutex_.lock();
    }

    void unlock() { mutex_.unlock(); }

private:
    std::mutex mutex_;
};

#endif

}  // namespace kvs

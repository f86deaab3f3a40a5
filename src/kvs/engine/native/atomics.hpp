// Atomic access to plain fields that are written under the engine's lock and read without the lock,
// to prefetch the memory to which they lead.
//
// Such a reader sees the old value or the new one, never half of either, and uses the value as a
// hint only. A thread that holds the lock reads the fields plainly. Each `store_release` says with
// which load it pairs.
#pragma once

namespace kvs {

// For a value that leads to no memory that the reader dereferences.
template <typename T>
T load_relaxed(const T& field) {
    return __atomic_load_n(&field, __ATOMIC_RELAXED);
}

// For a value that leads to memory that the reader dereferences.
template <typename T>
T load_acquire(const T& field) {
    return __atomic_load_n(&field, __ATOMIC_ACQUIRE);
}

template <typename T, typename U>
void store_release(T& field, U value) {
    __atomic_store_n(&field, T(value), __ATOMIC_RELEASE);
}

}  // namespace kvs

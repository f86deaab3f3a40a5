// Places that are changed under a lock and looked at without it, to prefetch what they lead to.
//
// Who looks may see what was there, or what comes, never half of either; and does nothing with
// it that could go wrong. Within the lock plain reads will do.
#pragma once

namespace kvs {

template <typename T>
T racy_load(const T& place) {
    return __atomic_load_n(&place, __ATOMIC_RELAXED);
}

template <typename T>
T racy_load_first(const T& place) {  // what it leads to is to be looked at, too
    return __atomic_load_n(&place, __ATOMIC_ACQUIRE);
}

template <typename T, typename U>
void racy_store(T& place, U value) {
    __atomic_store_n(&place, T(value), __ATOMIC_RELEASE);
}

}  // namespace kvs

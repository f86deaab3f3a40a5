#include "removal.hpp"

#include <queue>

namespace kvs {

void Removal::find_expired(const Table& table, std::uint64_t until, std::size_t position) {
    const ExpiryHeap& expiries = table.expiries();
    if (position >= expiries.size() || expiries[position].until > until) return;
    add(table.records()[expiries[position].record]);
    for (std::size_t i = 1; i <= ExpiryHeap::CHILDREN; ++i)
        find_expired(table, until, ExpiryHeap::CHILDREN * position + i);
}

void Removal::find_earliest(const Table& table, std::uint64_t until, std::size_t limit) {
    const ExpiryHeap& expiries = table.expiries();
    const auto is_later = [&](std::size_t left, std::size_t right) {
        return expiries[left].until > expiries[right].until;
    };
    std::priority_queue<std::size_t, std::vector<std::size_t>, decltype(is_later)> next(is_later);
    if (expiries.size()) next.push(0);
    while (!next.empty() && keys_.size() < limit) {
        const std::size_t position = next.top();
        if (expiries[position].until > until) return;
        next.pop();
        add(table.records()[expiries[position].record]);
        const std::size_t first = ExpiryHeap::CHILDREN * position + 1;
        const std::size_t end = std::min(first + ExpiryHeap::CHILDREN, expiries.size());
        for (std::size_t child = first; child < end; ++child) next.push(child);
    }
}

void Removal::apply(Table& table, HashKey hash_key) {
    Key hashed_keys[PREFETCHED_KEYS];
    for (std::size_t begin = 0; begin < keys_.size(); begin += PREFETCHED_KEYS) {
        const std::size_t count = std::min(keys_.size() - begin, PREFETCHED_KEYS);
        for (std::size_t i = 0; i < count; ++i) {
            hashed_keys[i] = hashed(keys_[begin + i], hash_key);
            table.prefetch_slot(hashed_keys[i].hash);
        }
        for (std::size_t i = 0; i < count; ++i) {
            RemovedKey& key = keys_[begin + i];
            if (has_copies_) {
                copies_.append(key.view());
                key.at = copies_.data() + copies_.size() - key.size;
            }
            table.erase(hashed_keys[i]);
        }
    }
}

}  // namespace kvs

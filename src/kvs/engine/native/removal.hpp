// The pairs that a CLEAR or an expiry removes, as one change: found first, then removed.
#pragma once

#include <algorithm>
#include <queue>
#include <vector>

#include "output_format.hpp"
#include "state.hpp"

namespace kvs {

class Removal {
public:
    void clear() {
        keys_.clear();
        copies_.clear();
        has_copies_ = false;
    }

    std::size_t size() const { return keys_.size(); }

    // Each of these finds pairs, under the engine's lock, and throws std::bad_alloc.

    template <typename Matches>
    void find(const Table& table, Matches matches) {
        for (const Span& span : table.records().spans())
            Records::for_each(span, [&](const char* at) {
                const Record record(const_cast<char*>(at));
                if (matches(record.key().view())) add(record);
            });
    }

    // Find all pairs that expire at `until` or before.
    void find_expired(const Table& table, std::uint64_t until, std::size_t position = 0) {
        const ExpiryHeap& expiries = table.expiries();
        if (position >= expiries.size() || expiries[position].until > until) return;
        add(table.records()[expiries[position].record]);
        for (std::size_t i = 1; i <= ExpiryHeap::CHILDREN; ++i)
            find_expired(table, until, ExpiryHeap::CHILDREN * position + i);
    }

    // Find at most `limit` of them, the earliest first.
    void find_earliest(const Table& table, std::uint64_t until, std::size_t limit) {
        const ExpiryHeap& expiries = table.expiries();
        const auto is_later = [&](std::size_t left, std::size_t right) {
            return expiries[left].until > expiries[right].until;
        };
        std::priority_queue<std::size_t, std::vector<std::size_t>, decltype(is_later)> next(
            is_later);
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

    // Append the changes of watched keys, in ascending order. Throws std::bad_alloc.
    void collect_changes(const WatchedKeys& watched, HashKey hash_key,
                         std::vector<Change>& changes) const {
        const std::size_t first = changes.size();
        for (const RemovedKey& key : keys_)
            if (watched.contains(hashed(key, hash_key)))
                changes.push_back({std::string(key.view()), std::string(), true});
        std::sort(changes.begin() + std::ptrdiff_t(first), changes.end(),
                  [](const Change& left, const Change& right) { return left.key < right.key; });
    }

    // Reserve space for copies of the keys, for `write_record`. Throws std::bad_alloc.
    void reserve_copies() {
        std::size_t bytes = 0;
        for (const RemovedKey& key : keys_) bytes += key.size;
        copies_.reserve_more(bytes);
        has_copies_ = true;
    }

    // The bytes that `write_record` appends.
    std::size_t record_bytes() const {
        std::size_t bytes = std::string_view("DELETE []\n").size() + keys_.size();
        for (const RemovedKey& key : keys_) bytes += spelled_size(key.view(), key.is_plain);
        return bytes;
    }

    // Remove the pairs. Never fails.
    void apply(Table& table, HashKey hash_key) {
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

    // Append the line that records the removal, for which space is reserved. Only after
    // `reserve_copies`.
    void write_record(Buffer& out) {
        assert(has_copies_);
        std::sort(keys_.begin(), keys_.end(), [](const RemovedKey& left, const RemovedKey& right) {
            return left.view() < right.view();
        });
        out.append("DELETE ");
        char before = '[';
        for (const RemovedKey& key : keys_) {
            out.append(before);
            append_spelled(out, key.view(), key.is_plain);
            before = ',';
        }
        out.append("]\n");
    }

private:
    static constexpr std::size_t PREFETCHED_KEYS = 64;  // at a time

    struct RemovedKey : Word {
        bool is_plain;
    };

    void add(const Record& record) { keys_.push_back({record.key(), record.key_is_plain()}); }

    static Key hashed(const RemovedKey& key, HashKey hash_key) {
        Key hashed{};
        hashed.at = key.at;
        hashed.size = key.size;
        hashed.is_plain = key.is_plain;
        hashed.hash = siphash13(hash_key, key.at, key.size);
        return hashed;
    }

    std::vector<RemovedKey> keys_;  // in the records until `apply`, then in `copies_`
    Buffer copies_;
    bool has_copies_ = false;
};

}  // namespace kvs

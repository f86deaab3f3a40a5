// The pairs that a CLEAR or an expiry removes, as one change: found first, then removed.
//
// The .cpp file is a translation unit of its own, as long_line.cpp is.
#pragma once

#include <algorithm>
#include <vector>

#include "output_format.hpp"
#include "prefix_set.hpp"
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

    void find(const Table& table, const PrefixSet& prefixes) {
        for (const Span& span : table.records().spans())
            Records::for_each(span, [&](const char* at) {
                const Record record(const_cast<char*>(at));
                if (prefixes.matches_record_key(record.key())) add(record);
            });
    }

    // Find all pairs that expire at `until` or before. `position` is of the heap.
    void find_expired(const Table& table, std::uint64_t until, std::size_t position = 0);

    // Find at most `limit` of them, the earliest first.
    void find_earliest(const Table& table, std::uint64_t until, std::size_t limit);

    // Append the changes of watched keys, in ascending order. Throws std::bad_alloc.
    void collect_changes(const WatchedKeys& watched, HashKey hash_key,
                         std::vector<Change>& changes) const {
        const std::size_t first = changes.size();
        for (const RemovedKey& key : keys_)
            if (watched.contains(hashed(key, hash_key)))
                changes.push_back({std::string(key.view()), std::string(), true});
        sort(changes, first);
    }

    // The same if all pairs are removed.
    static void collect_all_changes(const Table& table, const WatchedKeys& watched,
                                    HashKey hash_key, std::vector<Change>& changes) {
        const std::size_t first = changes.size();
        for (const auto& entry : watched.entries()) {
            const std::string& name = entry.first;
            if (table.find(hashed({{name.data(), std::uint32_t(name.size())}, true}, hash_key)))
                changes.push_back({name, std::string(), true});
        }
        sort(changes, first);
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
    void apply(Table& table, HashKey hash_key);

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

    static void sort(std::vector<Change>& changes, std::size_t first) {
        std::sort(changes.begin() + std::ptrdiff_t(first), changes.end(),
                  [](const Change& left, const Change& right) { return left.key < right.key; });
    }

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

// Which keys are watched, and the changes of those. Guarded by the engine's lock.
//
// A key that nobody watches is told apart by one bit of its hash, mostly.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "siphash.hpp"
#include "words.hpp"

namespace kvs {

struct Change {
    std::string key;
    std::string value;
    bool removed;
};

class WatchedKeys {
public:
    explicit WatchedKeys(HashKey key) : key_(key), entries_(0, Hash{key}), filter_(INITIAL_FILTER_WORDS) {}

    bool empty() const { return entries_.empty(); }
    const auto& entries() const { return entries_; }

    // Throw std::bad_alloc, and have then done nothing.

    void add(const std::string& key) {
        const auto entry = entries_.find(key);
        if (entry != entries_.end()) {
            ++entry->second.watch_count;
            return;
        }
        if ((entries_.size() + 1) * FILTER_BITS_PER_KEY > filter_.size() * 64) {
            std::vector<std::uint64_t> larger(filter_.size() * 2);
            filter_.swap(larger);
            for (const auto& entry : entries_) set_bit(entry.first);
        }
        entries_.emplace(key, Entry{1, 0, 0});
        set_bit(key);
    }

    // Bits stay until nobody watches anything, or the filter grows: they cost a look-up.
    void remove(const std::string& key) {
        const auto entry = entries_.find(key);
        if (entry == entries_.end() || --entry->second.watch_count) return;
        entries_.erase(entry);
        if (entries_.empty()) filter_.assign(filter_.size(), 0);
    }

    bool may_contain(std::uint64_t hash) const {
        return filter_[filter_index(hash)] >> (hash & 63) & 1;
    }

    // To be called before the following, which may be called several times for one command.
    void begin_command() { ++command_; }

    // Put what a WRITE will change: a key named twice once, in its first filter_index, with the last value.
    void collect_writes(const Key* keys, const Word* values, std::size_t count,
                    std::vector<Change>& changes) {
        for (std::size_t i = 0; i < count; ++i) {
            if (Entry* entry = find(keys[i])) {
                const std::string value(values[i].view());
                if (entry->command == command_) {
                    changes[entry->change].value = value;
                } else {
                    changes.push_back({std::string(keys[i].view()), value, false});
                    entry->command = command_;
                    entry->change = changes.size() - 1;
                }
            }
        }
    }

    // The same of a DELETE; `exists` tells of a key whether it is.
    template <typename Exists>
    void collect_removals(const Key* keys, std::size_t count, std::vector<Change>& changes,
                      Exists exists) {
        for (std::size_t i = 0; i < count; ++i) {
            Entry* entry = find(keys[i]);
            if (!entry || entry->command == command_ || !exists(keys[i])) continue;
            changes.push_back({std::string(keys[i].view()), std::string(), true});
            entry->command = command_;
        }
    }

private:
    struct Hash {
        HashKey key;
        std::size_t operator()(const std::string& text) const {
            return std::size_t(siphash13(key, text.data(), text.size()));
        }
    };

    struct Entry {
        std::size_t watch_count;
        std::uint64_t command;  // the last that changed it, and where that change stands
        std::size_t change;
    };

    static constexpr std::size_t INITIAL_FILTER_WORDS = 64;  // of the filter, at first; 64 bits entry
    static constexpr std::size_t FILTER_BITS_PER_KEY = 16;  // bits of the filter a key, at least

    std::size_t filter_index(std::uint64_t hash) const { return (hash >> 6) & (filter_.size() - 1); }

    void set_bit(const std::string& key) {
        const std::uint64_t hash = siphash13(key_, key.data(), key.size());
        filter_[filter_index(hash)] |= std::uint64_t(1) << (hash & 63);
    }

    Entry* find(const Key& key) {
        if (!may_contain(key.hash)) return nullptr;
        const auto entry = entries_.find(std::string(key.view()));
        return entry == entries_.end() ? nullptr : &entry->second;
    }

    const HashKey key_;
    std::unordered_map<std::string, Entry, Hash> entries_;
    std::vector<std::uint64_t> filter_;
    std::uint64_t command_ = 0;
};

}  // namespace kvs

// The watched keys, and which of them a command changes.
//
// How it works: a hash table of the watched keys, and before it a Bloom filter of one hash
// function, which the commands look at for each key that they write or remove. The filter has at
// least 16 bits for each watched key and sets one of them, so it rules out at least 15 of 16 other
// keys by one load and one shift. More hash functions would rule out more and cost more loads. The
// hash is the one that the table needs anyway.
//
// Limits: `remove` cannot clear a bit, because another key may share it. Stale bits cost a look-up
// in the hash table, until no key is watched or the filter is rebuilt at twice its size.
//
// Locking: the engine's lock guards everything.
#pragma once

#include <cassert>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "siphash.hpp"
#include "words.hpp"

namespace kvs {

struct Change {
    std::string key;
    std::string value;  // empty if `removed`
    bool removed;
};

class WatchedKeys {
public:
    explicit WatchedKeys(HashKey key)
        : key_(key), entries_(0, Hash{key}), filter_(INITIAL_FILTER_WORDS) {}

    bool empty() const { return entries_.empty(); }
    const auto& entries() const { return entries_; }

    // Count one more watch of `key`. Throws std::bad_alloc; then nothing has changed.
    void add(const std::string& key) {
        const auto entry = entries_.find(key);
        if (entry != entries_.end()) {
            ++entry->second.watch_count;
            return;
        }
        if ((entries_.size() + 1) * FILTER_BITS_PER_KEY > filter_.size() * 64) {
            std::vector<std::uint64_t> larger(filter_.size() * 2);
            filter_.swap(larger);
            for (const auto& each : entries_) set_bit(each.first);
        }
        entries_.emplace(key, Entry{1, 0, 0});
        set_bit(key);
    }

    // Count one watch of `key` less. Does nothing if the key is not watched.
    void remove(const std::string& key) {
        const auto entry = entries_.find(key);
        if (entry == entries_.end() || --entry->second.watch_count) return;
        entries_.erase(entry);
        if (entries_.empty()) filter_.assign(filter_.size(), 0);
    }

    // Ask the Bloom filter: return false if the key of `hash` is not watched.
    bool may_contain(std::uint64_t hash) const {
        return filter_[filter_index(hash)] >> (hash & 63) & 1;
    }

    bool contains(const Key& key) const {
        return may_contain(key.hash) && entries_.count(std::string(key.view()));
    }

    // To be called once for each command, before `collect_writes` and `collect_removals`, which may
    // be called several times for one command.
    void begin_command() { ++command_; }

    // Append the changes of watched keys that a WRITE will make. A key that the WRITE names twice
    // has one change, in its first place, with the last value. Throws std::bad_alloc.
    void collect_writes(const Key* keys, const Word* values, std::size_t count,
                        std::vector<Change>& changes) {
        for (std::size_t i = 0; i < count; ++i) {
            Entry* entry = find(keys[i]);
            if (!entry) continue;
            const std::string value(values[i].view());
            if (entry->command == command_) {
                assert(entry->change < changes.size());
                changes[entry->change].value = value;
            } else {
                changes.push_back({std::string(keys[i].view()), value, false});
                entry->command = command_;
                entry->change = changes.size() - 1;
            }
        }
    }

    // Append the changes of watched keys that a DELETE will make; `exists` says whether a key does.
    // Throws std::bad_alloc.
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
        std::uint64_t command;  // the last command that changed the key
        std::size_t change;     // the index of that change
    };

    static constexpr std::size_t INITIAL_FILTER_WORDS = 64;  // of 64 bits
    static constexpr std::size_t FILTER_BITS_PER_KEY = 16;   // minimum

    std::size_t filter_index(std::uint64_t hash) const {
        return (hash >> 6) & (filter_.size() - 1);
    }

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
    std::vector<std::uint64_t> filter_;  // a power of two of words
    std::uint64_t command_ = 0;
};

}  // namespace kvs

// A part of the table: an array of slots, searched from the home of a key on, round and round.
//
// A slot is the number of a record and a tag, a piece of its key's hash; 0 is an empty one. The tag
// tells the home of a slot, and into which half of a split it goes, so that records need not be
// looked at. Removal moves later slots up: there are no tombstones.
//
// Guarded by the engine's lock, but for `find_hint`, which anybody may call.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

#include "records.hpp"

namespace kvs {

using Slot = std::uint64_t;

constexpr int TAG_BITS = 64 - Records::RECORD_ID_BITS;
constexpr int HOME_BITS = 10;
constexpr int MAX_DEPTH = TAG_BITS - HOME_BITS;

inline Slot tag_of(std::uint64_t hash) { return hash >> Records::RECORD_ID_BITS << Records::RECORD_ID_BITS; }
inline Slot tag_of_slot(Slot slot) { return tag_of(slot); }
inline RecordId record_id_of(Slot slot) { return slot & ((RecordId(1) << Records::RECORD_ID_BITS) - 1); }
inline std::size_t home_bits(Slot tag) {
    return (tag >> Records::RECORD_ID_BITS) & ((std::size_t(1) << HOME_BITS) - 1);
}
// The bits by which the table finds the segment.
inline std::size_t segment_bits(Slot tag) { return tag >> (Records::RECORD_ID_BITS + HOME_BITS); }

class Segment {
public:
    // Of 2^bits slots, HOME_BITS at least; throws std::bad_alloc.
    static Segment* create(int depth, int bits = HOME_BITS) {
        const std::size_t bytes = sizeof(Segment) + (sizeof(Slot) << bits);
        void* memory = std::calloc(1, bytes);
        if (!memory) throw std::bad_alloc();
        return new (memory) Segment(depth, bits);
    }

    static void destroy(Segment* segment) { std::free(segment); }

    int depth() const { return depth_; }
    int bits() const { return bits_; }
    std::size_t count() const { return count_; }
    // So many more can be insert_new in before it is so full that searches become long.
    bool has_capacity(std::size_t more) const { return count_ + more <= capacity() / 8 * 5; }

    // Return the slot of `key`, or the empty one where it belongs.
    Slot* find(const Key& key, const Records& records) {
        const Slot tag = tag_of(key.hash);
        if (key.slot_hint && tag_of_slot(*key.slot_hint) == tag && records[record_id_of(*key.slot_hint)].has_key(key))
            return key.slot_hint;
        for (std::size_t i = home(tag);; i = next(i)) {
            Slot& slot = slots()[i];
            if (!slot || (tag_of_slot(slot) == tag && records[record_id_of(slot)].has_key(key)))
                return &slot;
        }
    }

    void insert(Slot* slot, std::uint64_t hash, RecordId id) {
        store_release(*slot, tag_of(hash) | id);
        ++count_;
    }

    void replace(Slot* slot, RecordId id) { store_release(*slot, tag_of_slot(*slot) | id); }

    void erase(Slot* slot) {
        std::size_t hole = std::size_t(slot - slots());
        for (std::size_t i = next(hole); slots()[i]; i = next(i)) {
            const std::size_t probe_distance = (i - home(tag_of_slot(slots()[i]))) & (capacity() - 1);
            if (probe_distance >= ((i - hole) & (capacity() - 1))) {
                store_release(slots()[hole], slots()[i]);
                hole = i;
            }
        }
        store_release(slots()[hole], Slot(0));
        --count_;
    }

    // Give all whose next bit is 1 to `other`, which is empty, of the same size and one deeper.
    void split(Segment* other) {
        const std::size_t bit = std::size_t(1) << depth_;
        ++depth_;
        // From behind an empty slot on, those before a slot have moved before it does.
        std::size_t start = 0;
        while (slots()[start]) ++start;
        for (std::size_t n = 0, i = next(start); n < capacity(); ++n, i = next(i)) {
            const Slot slot = slots()[i];
            if (!slot) continue;
            store_release(slots()[i], Slot(0));
            --count_;
            (segment_bits(tag_of_slot(slot)) & bit ? other : this)->insert_new(slot);
        }
    }

    // Give all to `other`, which is larger. Who has seen a slot here finds it empty.
    void move_to(Segment* other) {
        for (std::size_t i = 0; i < capacity(); ++i) {
            if (slots()[i]) other->insert_new(slots()[i]);
            store_release(slots()[i], Slot(0));
        }
    }

    // What the table counts while it makes room for a long command.
    std::size_t expected_inserts = 0;

    void prefetch(std::uint64_t hash) const {
        __builtin_prefetch(&slots()[home(tag_of(hash))]);
    }

    // Return the slot that probably is the one of `hash`, null if none is seen; and its record.
    Slot* find_hint(std::uint64_t hash, RecordId& id) {
        const Slot tag = tag_of(hash);
        std::size_t i = home(tag);
        for (int tries_left = MAX_HINT_PROBES; tries_left; --tries_left, i = next(i)) {
            const Slot slot = load_relaxed(slots()[i]);
            if (!slot) break;
            if (tag_of_slot(slot) == tag) {
                id = record_id_of(slot);
                return &slots()[i];
            }
        }
        return nullptr;
    }

private:
    static constexpr int MAX_HINT_PROBES = 32;  // a search that is longer is tries_left to `find`

    Segment(int depth, int bits) : depth_(depth), bits_(bits) {}

    Slot* slots() { return reinterpret_cast<Slot*>(this + 1); }
    const Slot* slots() const { return reinterpret_cast<const Slot*>(this + 1); }
    std::size_t capacity() const { return std::size_t(1) << bits_; }
    std::size_t next(std::size_t i) const { return (i + 1) & (capacity() - 1); }
    std::size_t home(Slot tag) const { return home_bits(tag) << (bits_ - HOME_BITS); }

    void insert_new(Slot slot) {
        std::size_t i = home(tag_of_slot(slot));
        while (slots()[i]) i = next(i);
        store_release(slots()[i], slot);
        ++count_;
    }

    int depth_;
    const int bits_;
    std::size_t count_ = 0;
};

}  // namespace kvs

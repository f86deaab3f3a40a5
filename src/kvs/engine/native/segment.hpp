// A part of the table: an array of slots, searched from the home of a key on, round and round.
//
// A slot is the number of a record and a tag, a piece of its key's hash; 0 is an empty one. The tag
// tells the home of a slot, and into which half of a split it goes, so that records need not be
// looked at. Removal moves later slots up: there are no tombstones.
//
// Guarded by the engine's lock, but for `racy_find`, which anybody may call.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

#include "records.hpp"

namespace kvs {

using Slot = std::uint64_t;

constexpr int TAG_BITS = 64 - Records::REF_BITS;
constexpr int HOME_BITS = 10;
constexpr int MOST_DEPTH = TAG_BITS - HOME_BITS;

inline Slot tag_of(std::uint64_t hash) { return hash >> Records::REF_BITS << Records::REF_BITS; }
inline Slot tag_of_slot(Slot slot) { return tag_of(slot); }
inline Ref ref_of(Slot slot) { return slot & ((Ref(1) << Records::REF_BITS) - 1); }
inline std::size_t home_bits(Slot tag) {
    return (tag >> Records::REF_BITS) & ((std::size_t(1) << HOME_BITS) - 1);
}
// The bits by which the table finds the segment.
inline std::size_t segment_bits(Slot tag) { return tag >> (Records::REF_BITS + HOME_BITS); }

class Segment {
public:
    // Of 2^bits slots, HOME_BITS at least; throws std::bad_alloc.
    static Segment* make(int depth, int bits = HOME_BITS) {
        const std::size_t bytes = sizeof(Segment) + (sizeof(Slot) << bits);
        void* at = std::calloc(1, bytes);
        if (!at) throw std::bad_alloc();
        return new (at) Segment(depth, bits);
    }

    static void drop(Segment* segment) { std::free(segment); }

    int depth() const { return depth_; }
    int bits() const { return bits_; }
    std::size_t count() const { return count_; }
    // So many more can be put in before it is so full that searches become long.
    bool has_room(std::size_t more) const { return count_ + more <= capacity() / 8 * 5; }

    // Return the slot of `key`, or the empty one where it belongs.
    Slot* find(const Key& key, const Records& records) {
        const Slot tag = tag_of(key.hash);
        if (key.seen && tag_of_slot(*key.seen) == tag && records[ref_of(*key.seen)].holds(key))
            return key.seen;
        for (std::size_t i = home(tag);; i = next(i)) {
            Slot& slot = slots()[i];
            if (!slot || (tag_of_slot(slot) == tag && records[ref_of(slot)].holds(key)))
                return &slot;
        }
    }

    void fill(Slot* slot, std::uint64_t hash, Ref ref) {
        racy_store(*slot, tag_of(hash) | ref);
        ++count_;
    }

    void change(Slot* slot, Ref ref) { racy_store(*slot, tag_of_slot(*slot) | ref); }

    void empty(Slot* slot) {
        std::size_t hole = std::size_t(slot - slots());
        for (std::size_t i = next(hole); slots()[i]; i = next(i)) {
            const std::size_t way = (i - home(tag_of_slot(slots()[i]))) & (capacity() - 1);
            if (way >= ((i - hole) & (capacity() - 1))) {
                racy_store(slots()[hole], slots()[i]);
                hole = i;
            }
        }
        racy_store(slots()[hole], Slot(0));
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
            racy_store(slots()[i], Slot(0));
            --count_;
            (segment_bits(tag_of_slot(slot)) & bit ? other : this)->put(slot);
        }
    }

    // Give all to `other`, which is larger. Who has seen a slot here finds it empty.
    void move_to(Segment* other) {
        for (std::size_t i = 0; i < capacity(); ++i) {
            if (slots()[i]) other->put(slots()[i]);
            racy_store(slots()[i], Slot(0));
        }
    }

    // What the table counts while it makes room for a long command.
    std::size_t expected = 0;

    void prefetch(std::uint64_t hash) const {
        __builtin_prefetch(&slots()[home(tag_of(hash))]);
    }

    // Return the slot that probably is the one of `hash`, null if none is seen; and its record.
    Slot* racy_find(std::uint64_t hash, Ref& ref) {
        const Slot tag = tag_of(hash);
        std::size_t i = home(tag);
        for (int left = FAR; left; --left, i = next(i)) {
            const Slot slot = racy_load(slots()[i]);
            if (!slot) break;
            if (tag_of_slot(slot) == tag) {
                ref = ref_of(slot);
                return &slots()[i];
            }
        }
        return nullptr;
    }

private:
    static constexpr int FAR = 32;  // a search that is longer is left to `find`

    Segment(int depth, int bits) : depth_(depth), bits_(bits) {}

    Slot* slots() { return reinterpret_cast<Slot*>(this + 1); }
    const Slot* slots() const { return reinterpret_cast<const Slot*>(this + 1); }
    std::size_t capacity() const { return std::size_t(1) << bits_; }
    std::size_t next(std::size_t i) const { return (i + 1) & (capacity() - 1); }
    std::size_t home(Slot tag) const { return home_bits(tag) << (bits_ - HOME_BITS); }

    void put(Slot slot) {
        std::size_t i = home(tag_of_slot(slot));
        while (slots()[i]) i = next(i);
        racy_store(slots()[i], slot);
        ++count_;
    }

    int depth_;
    const int bits_;
    std::size_t count_ = 0;
};

}  // namespace kvs

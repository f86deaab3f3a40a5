// A segment of the table: an open-addressing array of slots with linear probing.
//
// A slot is the ID of a record and a tag, which is a part of the hash of the record's key; an empty
// slot is 0. The tag alone gives the home of a slot, and the half of a split to which the slot
// belongs, so neither `erase` nor `split` looks at records.
//
//     bit  63                    46 45            36 35                      0
//          +-----------------------+----------------+------------------------+
//          | segment bits (18)     | home bits (10) | record ID (36)         |
//          +-----------------------+----------------+------------------------+
//          |<-------------- tag (28 bits) --------->|
//
// Invariant: no slot between the home of a key and the slot of the key is empty. A search therefore
// ends at the first empty slot. At most 5/8 of the slots are used, which keeps searches short; a
// search that ended nowhere would need a segment without an empty slot.
//
// Backward-shift deletion (`erase`): an emptied slot must not cut off the slots after it.
// Tombstones would keep searches long after many deletions, so later slots are moved up instead.
// Walk from the hole to the next empty slot. A slot at distance d from its home may move to the
// hole if the hole is not before its home, that is, if d is at least the distance from the hole to
// the slot. The slot that moved leaves the next hole. Cost: the length of one cluster; no memory.
//
// Split (`split`): a segment of depth d holds the keys that agree in their last d segment bits. It
// is split by bit d: the slots in which that bit is 1 go to a sibling, the others stay. Both keep
// their homes, so both sets are inserted again in the order of probing. The walk begins after an
// empty slot and so at the start of a cluster: every slot before a slot is back in place when its
// turn comes, and a slot never moves after its old place. So one pass suffices, without a copy.
// Limit: a tag has no more than 18 segment bits; then the table grows a segment in one piece
// (`move_to`).
//
// Merge (`move_to`): when a segment and the one from which it was split are nearly empty, the slots
// of one move to the other, and it is retired.
//
// Memory (`SegmentMemory`): the slots of a segment are whole pages. A retired segment can
// still be read, as an empty one, and is used for the next split; beyond 512 of them, it has given
// its pages back. Nothing is unmapped before the table is destroyed.
//
// Slot hints (`find_hint`): the address of the slot in which a key was seen before the engine's
// lock was taken. The slot may have changed since, so `find` compares the tag and the key once more
// and searches if they differ. This is sound because a slot of this table whose record has the key
// is the slot of the key, however it was found, and because a segment's memory lives as long as its
// table. The hint saves the search, and the record to which it led is in the cache by then. Limit:
// a hint is of one table; a call clears its hints when `Engine::replace` has swapped the table.
//
// Locking: the engine's lock guards everything but `prefetch` and `find_hint`.
#pragma once

#include <cassert>
#include <cstdint>
#include <new>
#include <utility>
#include <vector>

#include "mapped_memory.hpp"
#include "records.hpp"

namespace kvs {

using Slot = std::uint64_t;

constexpr int TAG_BITS = 64 - Records::RECORD_ID_BITS;
constexpr int HOME_BITS = 10;
constexpr int MAX_DEPTH = TAG_BITS - HOME_BITS;

// The tag of a hash, or of a slot.
inline Slot tag_of(std::uint64_t hash) {
    return hash >> Records::RECORD_ID_BITS << Records::RECORD_ID_BITS;
}
inline RecordId record_id_of(Slot slot) {
    return slot & ((RecordId(1) << Records::RECORD_ID_BITS) - 1);
}
inline std::size_t home_bits(Slot tag) {
    return (tag >> Records::RECORD_ID_BITS) & ((std::size_t(1) << HOME_BITS) - 1);
}
// The bits that select the segment in the table's directory.
inline std::size_t segment_bits(Slot tag) { return tag >> (Records::RECORD_ID_BITS + HOME_BITS); }

class alignas(64) Segment {
public:
    // An empty segment of 2^bits slots, which are zeros and outlive it.
    Segment(Slot* slots, int depth, int bits) : slots_(slots), depth_(depth), bits_(bits) {
        assert(depth >= 0 && depth <= MAX_DEPTH && bits >= HOME_BITS);
    }

    Segment(const Segment&) = delete;
    Segment& operator=(const Segment&) = delete;

    int depth() const { return depth_; }
    int bits() const { return bits_; }
    std::size_t count() const { return count_; }
    // Return whether `more` slots can be filled before the segment must grow.
    bool has_capacity(std::size_t more) const { return count_ + more <= capacity() / 8 * 5; }

    // Return the slot of `key`, or the empty slot where it belongs.
    ALWAYS_INLINE Slot* find(const Key& key, const Records& records) {
        const Slot tag = tag_of(key.hash);
        if (Slot* const hint = key.slot_hint)  // an empty slot leads to record 0, which has no key
            if (tag_of(*hint) == tag && records[record_id_of(*hint)].has_key(key)) return hint;
        for (std::size_t i = home(tag);; i = next(i)) {
            Slot& slot = slots()[i];
            if (!slot || (tag_of(slot) == tag && records[record_id_of(slot)].has_key(key)))
                return &slot;
        }
    }

    // Return the slot that refers to this record, which exists.
    Slot* find_record(std::uint64_t hash, RecordId id) {
        std::size_t i = home(tag_of(hash));
        while (slots()[i] != (tag_of(hash) | id)) {
            assert(slots()[i]);
            i = next(i);
        }
        return &slots()[i];
    }

    // Fill the empty slot that `find` returned.
    void insert(Slot* slot, std::uint64_t hash, RecordId id) {
        assert(owns(slot) && !*slot && id && record_id_of(id) == id);
        assert(count_ < capacity() - 1);          // searches need an empty slot to end
        store_release(*slot, tag_of(hash) | id);  // pairs with `find_hint`
        ++count_;
    }

    // Make a slot refer to another record of the same key.
    void replace(Slot* slot, RecordId id) {
        assert(owns(slot) && *slot && id && record_id_of(id) == id);
        store_release(*slot, tag_of(*slot) | id);  // pairs with `find_hint`
    }

    // Empty a slot by backward-shift deletion.
    void erase(Slot* slot) {
        assert(owns(slot) && *slot);
        std::size_t hole = std::size_t(slot - slots());
        for (std::size_t i = next(hole); slots()[i]; i = next(i)) {
            const std::size_t probe_distance = (i - home(tag_of(slots()[i]))) & (capacity() - 1);
            if (probe_distance >= ((i - hole) & (capacity() - 1))) {
                store_release(slots()[hole], slots()[i]);  // pairs with `find_hint`
                hole = i;
            }
        }
        store_release(slots()[hole], Slot(0));  // pairs with `find_hint`
        --count_;
    }

    // Deepen by one and move the slots whose next segment bit is 1 to `sibling`, which is empty and
    // of the same size.
    void split(Segment* sibling) {
        assert(sibling->depth_ == depth_ + 1 && sibling->bits_ == bits_ && !sibling->count_);
        const std::size_t bit = std::size_t(1) << depth_;
        ++depth_;
        std::size_t start = 0;
        while (slots()[start]) ++start;
        for (std::size_t n = 0, i = next(start); n < capacity(); ++n, i = next(i)) {
            const Slot slot = slots()[i];
            if (!slot) continue;
            store_release(slots()[i], Slot(0));  // pairs with `find_hint`
            --count_;
            (segment_bits(slot) & bit ? sibling : this)->insert_at_home(slot);
        }
    }

    // Move all slots to `other`, which has the capacity. A slot hint into this segment then finds
    // an empty slot.
    void move_to(Segment* other) {
        assert(other->count_ + count_ < other->capacity());
        for (std::size_t i = 0; i < capacity(); ++i) {
            if (!slots()[i]) continue;
            other->insert_at_home(slots()[i]);
            store_release(slots()[i], Slot(0));  // pairs with `find_hint`
        }
        count_ = 0;
    }

    // Return whether two segments of so few slots are to be merged. The merged one has at most a
    // quarter of its slots in use, far from its next split.
    bool is_sparse() const { return bits_ == HOME_BITS && count_ <= MAX_SPARSE; }

    // Return whether it is time to look for a merge after an `erase`; not at each, because that
    // looks at another segment.
    bool should_merge() const { return is_sparse() && count_ % (MAX_SPARSE / 4) == 0; }

    void set_depth(int depth) {
        assert(depth >= 0 && depth <= MAX_DEPTH);
        depth_ = depth;
    }

    // The number of keys of one long command that belong here; counted by `Table::reserve`, else 0.
    std::size_t expected_inserts = 0;

    void prefetch(std::uint64_t hash) const { __builtin_prefetch(&slots()[home(tag_of(hash))]); }

    // Without the lock: return the slot that probably is the one of `hash`, and its record in `id`;
    // null if a short search sees no such slot.
    Slot* find_hint(std::uint64_t hash, RecordId& id) {
        const Slot tag = tag_of(hash);
        std::size_t i = home(tag);
        for (int tries_left = MAX_HINT_PROBES; tries_left; --tries_left, i = next(i)) {
            const Slot slot = load_relaxed(slots()[i]);
            if (!slot) break;
            if (tag_of(slot) == tag) {
                id = record_id_of(slot);
                return &slots()[i];
            }
        }
        return nullptr;
    }

private:
    friend class SegmentMemory;

    static constexpr int MAX_HINT_PROBES = 32;  // a longer search is left to `find`
    static constexpr std::size_t MAX_SPARSE = (std::size_t(1) << HOME_BITS) / 8;

    Slot* slots() const { return slots_; }
    std::size_t capacity() const { return std::size_t(1) << bits_; }
    bool owns(const Slot* slot) const { return slot >= slots() && slot < slots() + capacity(); }
    std::size_t next(std::size_t i) const { return (i + 1) & (capacity() - 1); }
    std::size_t home(Slot tag) const { return home_bits(tag) << (bits_ - HOME_BITS); }

    // Copy a slot of another place into the first empty slot from its home on.
    void insert_at_home(Slot slot) {
        std::size_t i = home(tag_of(slot));
        while (slots()[i]) i = next(i);
        store_release(slots()[i], slot);  // pairs with `find_hint`
        ++count_;
    }

    Slot* const slots_;
    int depth_;
    const int bits_;
    std::size_t count_ = 0;
    Segment* next_free_ = nullptr;
};

// The segments of a table.
class SegmentMemory {
public:
    // Return an empty segment. Throws std::bad_alloc.
    Segment* create(int depth) {
        if (!free_) add_segments();
        Segment* const segment = std::exchange(free_, free_->next_free_);
        --free_count_;
        segment->set_depth(depth);
        return segment;
    }

    // Return an empty segment of more slots than others. Throws std::bad_alloc.
    Segment* create_larger(int depth, int bits) {
        assert(bits > HOME_BITS);
        mappings_.reserve(mappings_.size() + 1);
        mappings_.emplace_back(sizeof(Segment) + (sizeof(Slot) << bits));
        char* const at = mappings_.back().data();
        return new (at) Segment(reinterpret_cast<Slot*>(at + sizeof(Segment)), depth, bits);
    }

    // Retire an empty segment, which other threads may still read.
    void retire(Segment* segment) {
        assert(!segment->count());
        if (segment->bits() != HOME_BITS || free_count_ >= MAX_KEPT)
            discard_pages(reinterpret_cast<char*>(segment->slots()), sizeof(Slot)
                                                                         << segment->bits());
        if (segment->bits() == HOME_BITS) free(segment);
    }

private:
    static constexpr std::size_t SEGMENTS_PER_REGION = 256;  // 2 MiB of slots
    static constexpr std::size_t MAX_KEPT = 512;             // free ones with their pages: 4 MiB
    static constexpr std::size_t ADDED_TOGETHER = 8;         // 64 KiB of slots
    static constexpr std::size_t SLOTS_BYTES = sizeof(Slot) << HOME_BITS;

    COLD void add_segments() {
        if (!unused_) {
            mappings_.reserve(mappings_.size() + 1);
            mappings_.emplace_back((sizeof(Segment) + SLOTS_BYTES) * SEGMENTS_PER_REGION);
            region_ = mappings_.back().data();
            unused_ = SEGMENTS_PER_REGION;
        }
        char* const first_slots = region_ + sizeof(Segment) * SEGMENTS_PER_REGION;
        for (std::size_t i = 0; i < ADDED_TOGETHER; ++i) {
            --unused_;
            Slot* const slots = reinterpret_cast<Slot*>(first_slots + unused_ * SLOTS_BYTES);
            free(new (region_ + unused_ * sizeof(Segment)) Segment(slots, 0, HOME_BITS));
        }
        populate_pages(first_slots + unused_ * SLOTS_BYTES, ADDED_TOGETHER * SLOTS_BYTES);
    }

    void free(Segment* segment) {
        segment->next_free_ = free_;
        free_ = segment;
        ++free_count_;
    }

    std::vector<MappedMemory> mappings_;
    char* region_ = nullptr;  // the last one
    std::size_t unused_ = 0;  // segments of it, the first ones
    Segment* free_ = nullptr;
    std::size_t free_count_ = 0;
};

}  // namespace kvs

// The table: a hash table by extendible hashing (Fagin, Nievergelt, Pippenger and Strong, 1979).
//
// How it works: a directory of 2^depth pointers leads from bits of a key's hash to a segment. A
// full segment is split in two, alone; when it is as deep as the directory, the directory is
// doubled first, which copies pointers. So growth is spread over many commands, a few microseconds
// at a time, at any size.
//
// Invariants:
//   - A segment of depth d is in the directory at each index whose last d bits are those of its
//   keys.
//   - The directory never moves: its address space is reserved for the greatest depth.
//   - Memory that `prefetch_slot` or `prefetch_record` may read is freed with the table only. A
//     replaced segment is retired, not freed.
//
// Limits: keys whose tags are equal cannot be split; their segment grows in one piece, and searches
// in it are linear. The hash has a secret key, so no other process can choose such keys.
//
// Locking: the engine's lock guards everything but `prefetch_slot` and `prefetch_record`.
#pragma once

#include <cassert>
#include <vector>

#include "segment.hpp"

namespace kvs {

class Table {
public:
    // Throws std::bad_alloc.
    Table() : directory_(sizeof(Segment*) << MAX_DEPTH) {
        store_release(segments()[0], Segment::create(0));  // pairs with `load_segment`
    }

    Table(const Table&) = delete;
    Table& operator=(const Table&) = delete;

    ~Table() {
        // A segment is destroyed at its first index, which is the last one of this walk.
        for (std::size_t i = std::size_t(1) << depth_; i-- > 0;)
            if (i >> segments()[i]->depth() == 0) Segment::destroy(segments()[i]);
        for (Segment* segment : retired_segments_) Segment::destroy(segment);
    }

    std::size_t size() const { return size_; }
    const Records& records() const { return records_; }

    // Return the record of `key`, or 0 if the key is missing.
    RecordId find(const Key& key) const {
        return record_id_of(*segment(key.hash)->find(key, records_));
    }

    // Reserve space for all pairs of a command, so that no `insert_or_assign` of them fails. Throws
    // std::bad_alloc; then no pair has changed.
    void reserve(const Key* keys, std::size_t count) {
        records_.reserve_more(count);
        if (count <= SMALL_WRITE_KEYS) {
            for (std::size_t i = 0; i < count; ++i)
                while (!segment(keys[i].hash)->has_capacity(count)) grow(keys[i].hash);
        } else {
            while (!count_inserts(keys, count)) grow_all(keys, count);
        }
    }

    // Reserve space for records of `units` units in all, so that no `insert` or `insert_or_assign`
    // fails for lack of record space. Throws std::bad_alloc.
    void reserve_units(std::size_t units) { records_.reserve_units(units); }

    // Insert a pair, for whose record space is reserved, unless its key exists; return whether it
    // was inserted. Throws std::bad_alloc; then no pair has changed.
    bool insert(const Key& key, const Word& value) {
        if (find(key)) return false;
        while (!segment(key.hash)->has_capacity(1)) grow(key.hash);
        insert_or_assign(key, value);
        return true;
    }

    // Set a pair for which space is reserved.
    void insert_or_assign(const Key& key, const Word& value) {
        Segment* const target = segment(key.hash);
        Slot* const slot = target->find(key, records_);
        if (!*slot) {
            target->insert(slot, key.hash, records_.create(key, value));
            ++size_;
            return;
        }
        Record record = records_[record_id_of(*slot)];
        if (Records::units(std::size_t(key.size) + record.value().size) ==
            Records::units(std::size_t(key.size) + value.size)) {
            record.set_value(value);
        } else {
            const RecordId replaced = record_id_of(*slot);
            target->replace(slot, records_.create(key, value));
            records_.free(replaced);
        }
    }

    // Remove `key`; return whether it existed.
    bool erase(const Key& key) {
        Segment* const target = segment(key.hash);
        Slot* const slot = target->find(key, records_);
        if (!*slot) return false;
        records_.free(record_id_of(*slot));
        target->erase(slot);
        --size_;
        return true;
    }

    // Without the lock: load what a command will read into the cache, and set its slot hint.

    void prefetch_slot(std::uint64_t hash) const {
        if (const Segment* target = load_segment(hash)) target->prefetch(hash);
    }

    void prefetch_record(Key& key) const {
        RecordId id = 0;
        if (Segment* target = load_segment(key.hash))
            key.slot_hint = target->find_hint(key.hash, id);
        if (id) records_.prefetch(id);
    }

private:
    // Keys of a command up to which each segment reserves a slot for every key of the command. For
    // more keys, the keys of each segment are counted.
    static constexpr std::size_t SMALL_WRITE_KEYS = 128;

    Segment** segments() const { return reinterpret_cast<Segment**>(directory_.data()); }

    std::size_t directory_index(std::uint64_t hash, int depth) const {
        return segment_bits(tag_of(hash)) & ((std::size_t(1) << depth) - 1);
    }

    Segment* segment(std::uint64_t hash) const { return segments()[directory_index(hash, depth_)]; }

    // Without the lock: return the segment of `hash`, or one that was its segment a moment ago.
    Segment* load_segment(std::uint64_t hash) const {
        return load_acquire(segments()[directory_index(hash, load_acquire(depth_))]);
    }

    // Enlarge the capacity of the segment of `hash`, by a split or in one piece. Throws
    // std::bad_alloc.
    void grow(std::uint64_t hash) {
        Segment* const target = segment(hash);
        const int depth = target->depth();
        assert(depth <= depth_);
        if (depth == MAX_DEPTH) {
            retired_segments_.reserve(retired_segments_.size() + 1);
            Segment* const larger = Segment::create(depth, target->bits() + 1);
            target->move_to(larger);
            link_segment(larger, directory_index(hash, depth));
            retired_segments_.push_back(target);
        } else {
            Segment* const sibling = Segment::create(depth + 1);
            if (depth == depth_) double_directory();
            target->split(sibling);
            link_segment(sibling, directory_index(hash, depth) | std::size_t(1) << depth);
        }
    }

    void double_directory() {
        assert(depth_ < MAX_DEPTH);
        const std::size_t count = std::size_t(1) << depth_;
        // Both pair with `load_segment`: a reader of the new depth sees the copied pointers.
        for (std::size_t i = 0; i < count; ++i) store_release(segments()[count + i], segments()[i]);
        store_release(depth_, depth_ + 1);
    }

    // Store a segment at each of its indexes, of which `first` is the lowest.
    void link_segment(Segment* segment, std::size_t first) {
        assert(first >> segment->depth() == 0);
        for (std::size_t i = first; i < std::size_t(1) << depth_;
             i += std::size_t(1) << segment->depth())
            store_release(segments()[i], segment);  // pairs with `load_segment`
    }

    // Count the keys that belong to each segment; return whether all segments have the capacity,
    // and reset the counts then.
    bool count_inserts(const Key* keys, std::size_t count) {
        bool fits = true;
        for (std::size_t i = 0; i < count; ++i) {
            Segment* const target = segment(keys[i].hash);
            fits &= target->has_capacity(++target->expected_inserts);
        }
        if (fits) reset_counts(keys, count);
        return fits;
    }

    void reset_counts(const Key* keys, std::size_t count) {
        for (std::size_t i = 0; i < count; ++i) segment(keys[i].hash)->expected_inserts = 0;
    }

    // Grow each segment once whose capacity is below its counted inserts, and reset the counts.
    void grow_all(const Key* keys, std::size_t count) {
        try {
            for (std::size_t i = 0; i < count; ++i) {
                Segment* const target = segment(keys[i].hash);
                if (target->has_capacity(target->expected_inserts)) continue;
                target->expected_inserts = 0;
                grow(keys[i].hash);
            }
        } catch (...) {
            reset_counts(keys, count);
            throw;
        }
        reset_counts(keys, count);
    }

    MappedMemory directory_;  // reserved for 2^MAX_DEPTH pointers
    int depth_ = 0;
    Records records_;
    std::size_t size_ = 0;
    std::vector<Segment*> retired_segments_;
};

}  // namespace kvs

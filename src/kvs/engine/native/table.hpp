// The table: a hash table by extendible hashing (Fagin, Nievergelt, Pippenger and Strong, 1979).
//
// How it works: a directory of 2^depth pointers leads from bits of a key's hash to a segment. A
// full segment is split in two, alone; when it is as deep as the directory, the directory is
// doubled first, which copies pointers. So growth is spread over many commands, a few microseconds
// at a time, at any size. Two segments that a split has made become one again when both are nearly
// empty; the directory is not halved.
//
// Invariants:
//   - A segment of depth d is in the directory at each index whose last d bits are those of its
//   keys.
//   - The directory never moves: its address space is reserved for the greatest depth.
//   - Memory that `prefetch_slot` or `prefetch_record` may read is unmapped with the table only.
//   - Segments are merged by `erase` only, so the slots that `reserve` has reserved stay.
//
// Limits: keys whose tags are equal cannot be split; their segment grows in one piece, and searches
// in it are linear. The hash has a secret key, so no other process can choose such keys.
//
// Locking: the engine's lock guards everything but `prefetch_slot` and `prefetch_record`.
#pragma once

#include <algorithm>
#include <cassert>
#include <utility>
#include <vector>

#include "segment.hpp"
#include "siphash.hpp"

namespace kvs {

// All pairs of a table, as long as it does not change, or of a copy of it.
struct Pairs {
    std::vector<Span> spans;
    const Expiry* expiries = nullptr;
    std::size_t count = 0;
};

class Table {
public:
    using Hash = std::uint64_t (*)(HashKey, const char*, std::size_t);

    // `hash` is the hash of all keys. Throws std::bad_alloc.
    explicit Table(HashKey hash_key = {}, Hash hash = siphash13)
        : hash_key_(hash_key), hash_(hash), directory_(sizeof(Segment*) << MAX_DEPTH) {
        store_release(segments()[0], segment_memory_.create(0));  // pairs with `load_segment`
    }

    Table(const Table&) = delete;
    Table& operator=(const Table&) = delete;

    std::size_t size() const { return size_; }
    const Records& records() const { return records_; }

    // Return the record of `key`, or 0 if the key is missing.
    ALWAYS_INLINE RecordId find(const Key& key) const {
        return record_id_of(*segment(key.hash)->find(key, records_));
    }

    // Reserve space for all pairs of a command, so that no `insert_or_assign` of them fails. Throws
    // std::bad_alloc; then no pair has changed.
    void reserve(const Key* keys, std::size_t count) {
        records_.reserve_more(count);
        reserve_slots(keys, count);
    }

    // The same for pairs of any form. A short plain pair among them may be given to either
    // `insert_or_assign`.
    void reserve(const Key* keys, const NewValue* values, std::size_t count) {
        std::size_t units = 0, largest = Records::MAX_SHORT_UNITS, expiring = 0;
        for (std::size_t i = 0; i < count; ++i) {
            // A short record is not larger than the extended one of the same words.
            const std::size_t size = Shape(keys[i], values[i]).units();
            units += size;
            largest = std::max(largest, size);
            expiring += values[i].until != NO_EXPIRY;
        }
        records_.reserve_units(units, largest);
        expiries_.reserve_more(expiring);
        reserve_slots(keys, count);
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

    // Set a pair for which space is reserved, whose words are plain and have at most 40 bytes, and
    // which does not expire from now on.
    ALWAYS_INLINE void insert_or_assign(const Key& key, const Word& value) {
        assert(key.is_plain);
        Segment* const target = segment(key.hash);
        Slot* const slot = target->find(key, records_);
        if (!*slot) {
            target->insert(slot, key.hash, records_.create(key, value));
            ++size_;
            return;
        }
        const RecordId id = record_id_of(*slot);
        Record record = records_[id];
        if (!record.is_short()) return replace_extended(target, slot, key, {value, true});
        if (Records::units(std::size_t(key.size) + record.short_value_size()) ==
            Records::units(std::size_t(key.size) + value.size)) {
            record.set_value(value);
        } else {
            target->replace(slot, records_.create(key, value));
            records_.free(id);
        }
    }

    // Set a pair of any form for which space is reserved. The bytes of the value must not be in the
    // table.
    COLD void insert_or_assign(const Key& key, const NewValue& value) {
        if (is_short(key, value)) return insert_or_assign(key, value.bytes);
        Segment* const target = segment(key.hash);
        Slot* const slot = target->find(key, records_);
        if (*slot) return replace_extended(target, slot, key, value);
        const RecordId id = records_.create(Shape(key, value), key, value);
        target->insert(slot, key.hash, id);
        ++size_;
        if (value.until != NO_EXPIRY) expiries_.push({value.until, id}, Place{records_});
    }

    // Remove `key`; return whether it existed.
    ALWAYS_INLINE bool erase(const Key& key) {
        Segment* const target = segment(key.hash);
        Slot* const slot = target->find(key, records_);
        if (!*slot) return false;
        const RecordId id = record_id_of(*slot);
        if (!records_[id].is_short()) detach(id);
        records_.free(id);
        target->erase(slot);
        if (target->should_merge()) merge(target, key.hash);
        --size_;
        return true;
    }

    // The time at which a pair expires; NO_EXPIRY if it does not.
    std::uint64_t until(RecordId id) const {
        const Record record = records_[id];
        return record.expires() ? expiries_[record.heap_position()].until : NO_EXPIRY;
    }

    // The earliest of these times; NO_EXPIRY if no pair expires.
    std::uint64_t earliest_expiry() const { return expiries_.earliest(); }

    const ExpiryHeap& expiries() const { return expiries_; }

    // Throws std::bad_alloc.
    Pairs pairs() const { return {records_.spans(), expiries_.entries(), size_}; }

    // Return the bytes that a copy of all records and expiries takes.
    std::size_t copy_bytes() const { return records_.bytes() + expiries_.size() * sizeof(Expiry); }

    // Return whether `release_garbage` has something to do. Cheap.
    bool has_garbage() const { return records_.is_evacuating() || records_.has_garbage(); }

    // Give memory of freed records back: move at most 512 records out of a chunk. To be called
    // after a command that freed records, never within one. Return whether there is more to do;
    // the caller may release the engine's lock before it calls again. Without memory to move
    // records to, this does nothing.
    bool release_garbage() {
        if (!has_garbage()) return false;
        if (!records_.is_evacuating() && !records_.start_evacuation()) return false;
        try {
            for (std::size_t moved = 0; moved < MAX_MOVED && records_.is_evacuating();)
                moved += move_records();
        } catch (const std::bad_alloc&) {
            return false;
        }
        return has_garbage();
    }

    // Return the references to large values that the table has dropped. The caller destroys them
    // after it has released the engine's lock.
    DroppedValues take_dropped() { return std::exchange(dropped_, DroppedValues()); }

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
    static bool is_short(const Key& key, const NewValue& value) {
        return key.is_plain && key.size <= WORD_BYTES && value.is_plain && value.bytes.size &&
               value.bytes.size <= WORD_BYTES && !value.large && value.until == NO_EXPIRY;
    }

    // The callback by which the heap tells a record the position of its entry.
    struct Place {
        const Records& records;
        void operator()(RecordId id, std::uint32_t position) const {
            records[id].set_heap_position(position);
        }
    };

    // Remove what a record refers to, before it is freed or rewritten.
    COLD void detach(RecordId id) {
        const Record record = records_[id];
        if (record.expires()) expiries_.remove(record.heap_position(), Place{records_});
        if (LargeValue* const large = records_.detach_large(id)) dropped_.add(large);
    }

    // Set the value of an existing key, when the old record or the new one is extended.
    COLD void replace_extended(Segment* target, Slot* slot, const Key& key, const NewValue& value) {
        const RecordId replaced = record_id_of(*slot);
        const bool becomes_short = is_short(key, value);
        const Shape shape(key, value);
        const std::size_t units = becomes_short
                                      ? Records::units(std::size_t(key.size) + value.bytes.size)
                                      : shape.units();
        detach(replaced);
        RecordId id = replaced;
        if (records_.units_of(replaced) == units) {
            becomes_short ? records_.rewrite(id, key, value.bytes)
                          : records_.rewrite(id, shape, key, value);
        } else {
            id = becomes_short ? records_.create(key, value.bytes)
                               : records_.create(shape, key, value);
            target->replace(slot, id);
            records_.free(replaced);
        }
        if (value.until != NO_EXPIRY) expiries_.push({value.until, id}, Place{records_});
    }

    // Move the next records, at most 16, out of the chunk that is being evacuated; return their
    // number. Throws std::bad_alloc.
    std::size_t move_records() {
        RecordId ids[MOVED_TOGETHER];
        std::uint64_t hashes[MOVED_TOGETHER];
        std::size_t units = 0;
        const std::size_t count = records_.next_to_evacuate(ids, MOVED_TOGETHER);
        for (std::size_t i = 0; i < count; ++i) {
            const Word key = records_[ids[i]].key();
            hashes[i] = hash_(hash_key_, key.at, key.size);
            segment(hashes[i])->prefetch(hashes[i]);
            units += records_.units_of(ids[i]);
        }
        records_.reserve_units(units, Records::MAX_UNITS);
        for (std::size_t i = 0; i < count; ++i) {
            const RecordId moved = records_.move(ids[i]);
            Segment* const target = segment(hashes[i]);
            target->replace(target->find_record(hashes[i], ids[i]), moved);
            const Record record = records_[moved];
            if (record.expires()) expiries_.set_record(record.heap_position(), moved);
        }
        records_.advance_evacuation(ids[count - 1]);
        return count;
    }

    static constexpr std::size_t MAX_MOVED = 512;
    static constexpr std::size_t MOVED_TOGETHER = 16;

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
            Segment* const larger = segment_memory_.create_larger(depth, target->bits() + 1);
            target->move_to(larger);
            link_segment(larger, directory_index(hash, depth));
            segment_memory_.retire(target);
        } else {
            Segment* const sibling = segment_memory_.create(depth + 1);
            if (depth == depth_) double_directory();
            target->split(sibling);
            link_segment(sibling, directory_index(hash, depth) | std::size_t(1) << depth);
        }
    }

    // Merge the sparse segment of `hash` with the one of the same depth whose keys differ from its
    // keys in the last segment bit, as long as that is sparse too.
    COLD void merge(Segment* target, std::uint64_t hash) {
        while (const int depth = target->depth()) {
            const std::size_t index = directory_index(hash, depth);
            Segment* const other = segments()[index ^ std::size_t(1) << (depth - 1)];
            if (other->depth() != depth || !other->is_sparse() || !target->is_sparse()) return;
            other->move_to(target);
            target->set_depth(depth - 1);
            link_segment(target, directory_index(hash, depth - 1));
            segment_memory_.retire(other);
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

    void reserve_slots(const Key* keys, std::size_t count) {
        if (count <= SMALL_WRITE_KEYS) {
            for (std::size_t i = 0; i < count; ++i)
                while (!segment(keys[i].hash)->has_capacity(count)) grow(keys[i].hash);
        } else {
            while (!count_inserts(keys, count)) grow_all(keys, count);
        }
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

    const HashKey hash_key_;
    const Hash hash_;
    MappedMemory directory_;  // reserved for 2^MAX_DEPTH pointers
    SegmentMemory segment_memory_;
    int depth_ = 0;
    Records records_;
    ExpiryHeap expiries_;
    DroppedValues dropped_;
    std::size_t size_ = 0;
};

}  // namespace kvs

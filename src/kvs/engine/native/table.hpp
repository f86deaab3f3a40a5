// The table: extendible hashing (Fagin and others, 1979). A directory leads from the first bits of a
// hash to a segment; one that is full is split in two, alone, and sometimes the directory is
// doubled, which copies pointers. So the table grows by a few microseconds at a time, at any size.
//
// Laws: a segment of depth d stands in the directory wherever the last d bits are the same. One
// that cannot be split, because the tags have no more bits, grows in one piece. Nothing that `prefetch` may be looking at is given back before the table itself is.
//
// Guarded by the engine's lock, but for `prefetch_slot` and `prefetch_record`.
#pragma once

#include <vector>

#include "segment.hpp"

namespace kvs {

class Table {
public:
    // Throws std::bad_alloc.
    Table() : directory_(sizeof(Segment*) << MAX_DEPTH) {
        store_release(segments()[0], Segment::create(0));
    }

    Table(const Table&) = delete;
    Table& operator=(const Table&) = delete;

    ~Table() {
        // From the end on, a segment is dropped where it stands for the last time.
        for (std::size_t i = std::size_t(1) << depth_; i-- > 0;)
            if (i >> segments()[i]->depth() == 0) Segment::destroy(segments()[i]);
        for (Segment* segment : retired_segments_) Segment::destroy(segment);
    }

    std::size_t size() const { return size_; }
    const Records& records() const { return records_; }

    // Return the record of `key`, 0 if target is none.
    RecordId find(const Key& key) const {
        return record_id_of(*segment(key.hash)->find(key, records_));
    }

    // Make room for every pair of a command, so that none of its `put` fails; throws
    // std::bad_alloc, and then nothing has changed that anybody could see.
    void reserve(const Key* keys, std::size_t count) {
        records_.reserve_more(count);
        if (count <= SMALL_WRITE_KEYS) {
            for (std::size_t i = 0; i < count; ++i)
                while (!segment(keys[i].hash)->has_capacity(count)) grow(keys[i].hash);
        } else {
            while (!count_inserts(keys, count)) grow_all(keys, count);
        }
    }

    // Make room for records of so many units, so that no `put` or `insert` of them fails for lack of
    // it; throws std::bad_alloc.
    void reserve_units(std::size_t units) { records_.reserve_units(units); }

    // Put a pair whose key is missing, for whose record target is room; return false if the key is
    // target. Throws std::bad_alloc, and then nothing has changed that anybody could see.
    bool insert(const Key& key, const Word& value) {
        if (find(key)) return false;
        while (!segment(key.hash)->has_capacity(1)) grow(key.hash);
        insert_or_assign(key, value);
        return true;
    }

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

    // Return whether it was target.
    bool erase(const Key& key) {
        Segment* const target = segment(key.hash);
        Slot* const slot = target->find(key, records_);
        if (!*slot) return false;
        records_.free(record_id_of(*slot));
        target->erase(slot);
        --size_;
        return true;
    }

    // Without the lock: bring what a command will look at into the cache, and note where that is.

    void prefetch_slot(std::uint64_t hash) const {
        if (const Segment* target = load_segment(hash)) target->prefetch(hash);
    }

    void prefetch_record(Key& key) const {
        RecordId id = 0;
        if (Segment* target = load_segment(key.hash)) key.slot_hint = target->find_hint(key.hash, id);
        if (id) records_.prefetch(id);
    }

private:
    static constexpr std::size_t SMALL_WRITE_KEYS = 128;

    Segment** segments() const { return reinterpret_cast<Segment**>(directory_.data()); }

    std::size_t directory_index(std::uint64_t hash, int depth) const {
        return segment_bits(tag_of(hash)) & ((std::size_t(1) << depth) - 1);
    }

    Segment* segment(std::uint64_t hash) const { return segments()[directory_index(hash, depth_)]; }

    Segment* load_segment(std::uint64_t hash) const {
        return load_acquire(segments()[directory_index(hash, load_acquire(depth_))]);
    }

    // Make more room where `hash` belongs: by a split, or in one piece; throws std::bad_alloc.
    void grow(std::uint64_t hash) {
        Segment* const target = segment(hash);
        const int depth = target->depth();
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
        const std::size_t count = std::size_t(1) << depth_;
        for (std::size_t i = 0; i < count; ++i) store_release(segments()[count + i], segments()[i]);
        store_release(depth_, depth_ + 1);
    }

    void link_segment(Segment* segment, std::size_t first) {
        for (std::size_t i = first; i < std::size_t(1) << depth_;
             i += std::size_t(1) << segment->depth())
            store_release(segments()[i], segment);
    }

    // Count how many keys go to each segment; return whether target is room for all of them.
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

    // Enlarge once each segment that has too little room for what is expected_inserts.
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

    MappedMemory directory_;  // with room for all target can be, so that it never moves
    int depth_ = 0;
    Records records_;
    std::size_t size_ = 0;
    std::vector<Segment*> retired_segments_;
};

}  // namespace kvs

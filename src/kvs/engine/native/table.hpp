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
    Table() : directory_(sizeof(Segment*) << MOST_DEPTH) {
        racy_store(segments()[0], Segment::make(0));
    }

    Table(const Table&) = delete;
    Table& operator=(const Table&) = delete;

    ~Table() {
        // From the end on, a segment is dropped where it stands for the last time.
        for (std::size_t i = std::size_t(1) << depth_; i-- > 0;)
            if (i >> segments()[i]->depth() == 0) Segment::drop(segments()[i]);
        for (Segment* segment : outgrown_) Segment::drop(segment);
    }

    std::size_t size() const { return size_; }
    const Records& records() const { return records_; }

    // Return the record of `key`, 0 if there is none.
    Ref find(const Key& key) const {
        return ref_of(*segment(key.hash)->find(key, records_));
    }

    // Make room for every pair of a command, so that none of its `put` fails; throws
    // std::bad_alloc, and then nothing has changed that anybody could see.
    void make_room(const Key* keys, std::size_t count) {
        records_.make_room(count);
        if (count <= FEW) {
            for (std::size_t i = 0; i < count; ++i)
                while (!segment(keys[i].hash)->has_room(count)) enlarge(keys[i].hash);
        } else {
            while (!expect(keys, count)) enlarge_all(keys, count);
        }
    }

    // Make room for records of so many units, so that no `put` or `insert` of them fails for lack of
    // it; throws std::bad_alloc.
    void make_room(std::size_t units) { records_.make_room_for_units(units); }

    // Put a pair whose key is missing, for whose record there is room; return false if the key is
    // there. Throws std::bad_alloc, and then nothing has changed that anybody could see.
    bool insert(const Key& key, const Word& value) {
        if (find(key)) return false;
        while (!segment(key.hash)->has_room(1)) enlarge(key.hash);
        put(key, value);
        return true;
    }

    void put(const Key& key, const Word& value) {
        Segment* const there = segment(key.hash);
        Slot* const slot = there->find(key, records_);
        if (!*slot) {
            there->fill(slot, key.hash, records_.make(key, value));
            ++size_;
            return;
        }
        Record record = records_[ref_of(*slot)];
        if (Records::units(std::size_t(key.size) + record.value().size) ==
            Records::units(std::size_t(key.size) + value.size)) {
            record.set_value(value);
        } else {
            const Ref before = ref_of(*slot);
            there->change(slot, records_.make(key, value));
            records_.free(before);
        }
    }

    // Return whether it was there.
    bool remove(const Key& key) {
        Segment* const there = segment(key.hash);
        Slot* const slot = there->find(key, records_);
        if (!*slot) return false;
        records_.free(ref_of(*slot));
        there->empty(slot);
        --size_;
        return true;
    }

    // Without the lock: bring what a command will look at into the cache, and note where that is.

    void prefetch_slot(std::uint64_t hash) const {
        if (const Segment* there = racy_segment(hash)) there->prefetch(hash);
    }

    void prefetch_record(Key& key) const {
        Ref ref = 0;
        if (Segment* there = racy_segment(key.hash)) key.seen = there->racy_find(key.hash, ref);
        if (ref) records_.prefetch(ref);
    }

private:
    static constexpr std::size_t FEW = 128;

    Segment** segments() const { return reinterpret_cast<Segment**>(directory_.at()); }

    std::size_t place(std::uint64_t hash, int depth) const {
        return segment_bits(tag_of(hash)) & ((std::size_t(1) << depth) - 1);
    }

    Segment* segment(std::uint64_t hash) const { return segments()[place(hash, depth_)]; }

    Segment* racy_segment(std::uint64_t hash) const {
        return racy_load_first(segments()[place(hash, racy_load_first(depth_))]);
    }

    // Make more room where `hash` belongs: by a split, or in one piece; throws std::bad_alloc.
    void enlarge(std::uint64_t hash) {
        Segment* const there = segment(hash);
        const int depth = there->depth();
        if (depth == MOST_DEPTH) {
            outgrown_.reserve(outgrown_.size() + 1);
            Segment* const larger = Segment::make(depth, there->bits() + 1);
            there->move_to(larger);
            put_in_directory(larger, place(hash, depth));
            outgrown_.push_back(there);
        } else {
            Segment* const other = Segment::make(depth + 1);
            if (depth == depth_) double_directory();
            there->split(other);
            put_in_directory(other, place(hash, depth) | std::size_t(1) << depth);
        }
    }

    void double_directory() {
        const std::size_t count = std::size_t(1) << depth_;
        for (std::size_t i = 0; i < count; ++i) racy_store(segments()[count + i], segments()[i]);
        racy_store(depth_, depth_ + 1);
    }

    void put_in_directory(Segment* segment, std::size_t first) {
        for (std::size_t i = first; i < std::size_t(1) << depth_;
             i += std::size_t(1) << segment->depth())
            racy_store(segments()[i], segment);
    }

    // Count how many keys go to each segment; return whether there is room for all of them.
    bool expect(const Key* keys, std::size_t count) {
        bool room = true;
        for (std::size_t i = 0; i < count; ++i) {
            Segment* const there = segment(keys[i].hash);
            room &= there->has_room(++there->expected);
        }
        if (room) expect_nothing(keys, count);
        return room;
    }

    void expect_nothing(const Key* keys, std::size_t count) {
        for (std::size_t i = 0; i < count; ++i) segment(keys[i].hash)->expected = 0;
    }

    // Enlarge once each segment that has too little room for what is expected.
    void enlarge_all(const Key* keys, std::size_t count) {
        try {
            for (std::size_t i = 0; i < count; ++i) {
                Segment* const there = segment(keys[i].hash);
                if (there->has_room(there->expected)) continue;
                there->expected = 0;
                enlarge(keys[i].hash);
            }
        } catch (...) {
            expect_nothing(keys, count);
            throw;
        }
        expect_nothing(keys, count);
    }

    Pages directory_;  // with room for all there can be, so that it never moves
    int depth_ = 0;
    Records records_;
    std::size_t size_ = 0;
    std::vector<Segment*> outgrown_;
};

}  // namespace kvs

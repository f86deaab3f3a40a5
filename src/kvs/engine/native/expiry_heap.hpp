// When pairs expire: a heap of the records that do, by their time, with an index.
//
// How it works: a heap of four children a node, so a million entries are 10 levels, and the
// children of a node are in two cache lines. Each record has the position of its entry, and the
// heap tells the record when its entry moves. So the entry of any record is found and removed
// without a search, and no entry outlives its record.
//
// Cost: 16 bytes an entry, and 4 bytes of position in the record. A change moves at most one entry
// a level, and each move writes to a record.
//
// Limits: 2^32 - 1 entries. Of entries with equal times, any may be the first.
//
// Locking: the engine's lock guards everything.
#pragma once

#include <cassert>
#include <cstdint>
#include <limits>
#include <new>

#include "mapped_memory.hpp"

namespace kvs {

// The number of a record; see records.hpp.
using RecordId = std::uint64_t;

// The time of a pair that does not expire, which is later than any other.
constexpr std::uint64_t NO_EXPIRY = std::uint64_t(1) << 62;

struct Expiry {
    std::uint64_t until;  // milliseconds since the epoch
    RecordId record;
};

class ExpiryHeap {
public:
    static constexpr std::size_t CHILDREN = 4;  // of an entry, which stand one after the other

    std::size_t size() const { return size_; }
    std::uint64_t earliest() const { return size_ ? entries_[0].until : NO_EXPIRY; }
    const Expiry* entries() const { return entries_.data(); }
    const Expiry& operator[](std::size_t position) const {
        assert(position < size_);
        return entries_[position];
    }

    // Reserve space for `count` more entries. Throws std::bad_alloc.
    void reserve_more(std::size_t count) {
        if (count > std::numeric_limits<std::uint32_t>::max() - size_) throw std::bad_alloc();
        entries_.reserve(size_ + count);
    }

    // In both of these, `place(record, position)` is called for each record whose entry has a new
    // position.

    // Add an entry, for which space is reserved.
    template <typename Place>
    void push(const Expiry& entry, Place place) {
        move_up(size_++, entry, place);
    }

    template <typename Place>
    void remove(std::size_t position, Place place) {
        assert(position < size_);
        const Expiry last = entries_[--size_];
        if (size_ % DISCARDED_TOGETHER == 0) discard(size_ + DISCARDED_TOGETHER);
        if (position == size_) return;
        if (position && last.until < entries_[parent(position)].until)
            move_up(position, last, place);
        else
            move_down(position, last, place);
    }

    // Let an entry refer to its record at another place.
    void set_record(std::size_t position, RecordId record) {
        assert(position < size_);
        entries_[position].record = record;
    }

private:
    static constexpr std::size_t DISCARDED_TOGETHER = std::size_t(1) << 16;  // entries: 1 MiB

    // Give the pages of the unused entries from `begin` on back; those further on are given back.
    void discard(std::size_t begin) {
        if (begin + DISCARDED_TOGETHER <= entries_.capacity())
            discard_pages(reinterpret_cast<char*>(entries_.data() + begin),
                          DISCARDED_TOGETHER * sizeof(Expiry));
    }

    static std::size_t parent(std::size_t position) { return (position - 1) / CHILDREN; }

    template <typename Place>
    void move_up(std::size_t hole, const Expiry& entry, Place place) {
        while (hole && entry.until < entries_[parent(hole)].until) {
            fill(hole, entries_[parent(hole)], place);
            hole = parent(hole);
        }
        fill(hole, entry, place);
    }

    template <typename Place>
    void move_down(std::size_t hole, const Expiry& entry, Place place) {
        for (;;) {
            const std::size_t first = CHILDREN * hole + 1;
            if (first >= size_) break;
            std::size_t least = first;
            for (std::size_t child = first + 1; child < first + CHILDREN && child < size_; ++child)
                if (entries_[child].until < entries_[least].until) least = child;
            if (entries_[least].until >= entry.until) break;
            fill(hole, entries_[least], place);
            hole = least;
        }
        fill(hole, entry, place);
    }

    template <typename Place>
    void fill(std::size_t position, const Expiry& entry, Place place) {
        entries_[position] = entry;
        place(entry.record, std::uint32_t(position));
    }

    MappedArray<Expiry> entries_;
    std::size_t size_ = 0;
};

}  // namespace kvs

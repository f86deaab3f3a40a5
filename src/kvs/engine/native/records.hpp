// The memory of pairs: records of one pair each, packed into chunks of 1 MiB, without an allocation
// for each.
//
// A record is the size of its key (1 byte), the size of its value (1 byte), the key and the value,
// rounded up to whole units of 4 bytes:
//
//     WRITE [(key,value)]   ->   03 05 'k' 'e' 'y' 'v' 'a' 'l' 'u' 'e' .. ..     3 units
//     DELETE [key]          ->   00 03 <ID of the next freed record, 6 bytes> ..   its size in
//     units
//
// Invariants:
//   - Records lie one after the other, so that a chunk can be read from its start to its end.
//   - A freed record has a key size of 0 and keeps its place. It is linked into the free list of
//   its
//     size, and reused for the next record of that size only.
//   - Behind the last record of a chunk are at least 40 bytes, so that a copy of 40 bytes from any
//     value stays within the chunk.
//
// Limits: freed memory goes back to the kernel with the whole table only. 2^36 units are 256 GiB.
//
// Locking: the engine's lock guards everything but `prefetch`.
#pragma once

#include <array>
#include <cassert>
#include <cstdint>
#include <vector>

#include "atomics.hpp"
#include "mapped_memory.hpp"
#include "words.hpp"

namespace kvs {

// The number of the unit at which a record begins, counted over all chunks; 0 is no record.
using RecordId = std::uint64_t;

class Record {
public:
    explicit Record(char* at) : at_(at) {}

    Word key() const { return {at_ + 2, std::uint8_t(at_[0])}; }
    Word value() const { return {at_ + 2 + at_[0], std::uint8_t(at_[1])}; }
    bool has_key(const Word& key) const {
        return std::uint8_t(at_[0]) == key.size && equal_bytes(at_ + 2, key.at, key.size);
    }

    // Copy the value, under the lock. Always 40 bytes, whatever the size: a copy of constant size
    // is a few vector instructions without a branch, which is quicker than a call of memcpy(3) for
    // the exact size. The bytes after the value are copied too and never read; `Records` makes
    // sure that they exist.
    void copy_value(Value& value) const {
        std::memcpy(value.bytes, at_ + 2 + at_[0], WORD_BYTES);
        value.size = std::uint8_t(at_[1]);
    }

    void set(const Word& key, const Word& value) {
        assert(key.size && key.size <= WORD_BYTES);
        at_[0] = char(key.size);
        copy_word(at_ + 2, key.at, key.size);
        set_value(value);
    }

    void set_value(const Word& value) {
        assert(value.size && value.size <= WORD_BYTES);
        at_[1] = char(value.size);
        copy_word(at_ + 2 + at_[0], value.at, value.size);
    }

private:
    friend class Records;
    char* at_;
};

// Adjacent records, freed ones among them.
struct Span {
    const char* begin;
    const char* end;
};

class Records {
public:
    static constexpr std::size_t UNIT = 4;  // bytes
    static constexpr std::size_t CHUNK_BYTES = std::size_t(1) << 20;
    static constexpr int RECORD_ID_BITS = 36;

    // Return the units of a record whose key and value have `bytes` bytes. At least 8 bytes, which
    // a freed record needs.
    static std::size_t units(std::size_t bytes) {
        return bytes < 6 ? 2 : (bytes + 2 + UNIT - 1) / UNIT;
    }

    // Throws std::bad_alloc.
    Records() : chunk_starts_(sizeof(char*) << (RECORD_ID_BITS - CHUNK_BITS)) {
        add_chunk();
        mark_free(chunk(0), 2);  // in no free list, so that no record gets the ID 0
        chunks_[0].units = 2;
        bytes_ = 2 * UNIT;
    }

    Record operator[](RecordId id) const {
        assert(id >> CHUNK_BITS < chunks_.size());
        return Record(chunk(id >> CHUNK_BITS) + (id & (CHUNK_UNITS - 1)) * UNIT);
    }

    // Without the lock. `id` may be of a record that was freed meanwhile; its chunk stays.
    void prefetch(RecordId id) const {
        if (const char* start = load_relaxed(chunk_starts()[id >> CHUNK_BITS]))
            __builtin_prefetch(start + (id & (CHUNK_UNITS - 1)) * UNIT);
    }

    // Reserve space for `count` more records of any size. Throws std::bad_alloc.
    void reserve_more(std::size_t count) {
        while (free_capacity() < count) add_chunk();
    }

    // Reserve space for more records of `units` units in all. Throws std::bad_alloc.
    void reserve_units(std::size_t units) {
        while (free_units() < units) add_chunk();
    }

    // Create a record, for which space is reserved.
    RecordId create(const Word& key, const Word& value) {
        const std::size_t size = units(std::size_t(key.size) + value.size);
        RecordId id = free_lists_[size];
        if (id) {
            free_lists_[size] = next_free((*this)[id]);
        } else {
            id = bump_allocate(size);
        }
        (*this)[id].set(key, value);
        return id;
    }

    void free(RecordId id) {
        Record record = (*this)[id];
        assert(id && record.key().size);
        const std::size_t size = units(std::size_t(record.key().size) + record.value().size);
        mark_free(record.at_, size);
        for (int i = 0; i < LINK_BYTES; ++i) record.at_[2 + i] = char(free_lists_[size] >> (8 * i));
        free_lists_[size] = id;
    }

    // Bytes of all records, freed ones included.
    std::size_t bytes() const { return bytes_; }

    // Return a span for each chunk. Throws std::bad_alloc.
    std::vector<Span> spans() const {
        std::vector<Span> spans;
        spans.reserve(chunks_.size());
        for (const Chunk& chunk : chunks_) {
            const char* start = chunk.memory.data();
            spans.push_back({start, start + chunk.units * UNIT});
        }
        return spans;
    }

    // Call `visit` with the address of each record of a span that is not freed.
    template <typename Visit>
    static void for_each(const Span& span, Visit visit) {
        for (const char* at = span.begin; at != span.end; at += record_bytes(at))
            if (*at) visit(at);
    }

    // Return the bytes of a record, freed or not.
    static std::size_t record_bytes(const char* at) {
        return UNIT * (at[0] ? units(std::size_t(at[0]) + std::size_t(at[1])) : std::size_t(at[1]));
    }

private:
    static constexpr int CHUNK_BITS = 18;
    static constexpr std::size_t CHUNK_UNITS = std::size_t(1) << CHUNK_BITS;
    static constexpr std::size_t MAX_RECORD_UNITS = (2 + 2 * WORD_BYTES + UNIT - 1) / UNIT;
    static constexpr int LINK_BYTES = 6;  // of the ID of the next freed record, in a freed one
    static constexpr std::size_t USABLE_UNITS = CHUNK_UNITS - WORD_BYTES / UNIT;
    static_assert(CHUNK_UNITS * UNIT == CHUNK_BYTES);
    static_assert(RECORD_ID_BITS <= 8 * LINK_BYTES);

    struct Chunk {
        MappedMemory memory;
        std::size_t units;  // in use, freed records included
    };

    char** chunk_starts() const { return reinterpret_cast<char**>(chunk_starts_.data()); }
    char* chunk(std::size_t number) const { return chunk_starts()[number]; }

    static void mark_free(char* at, std::size_t size) {
        at[0] = 0;
        at[1] = char(size);
    }

    static RecordId next_free(Record record) {
        assert(!record.at_[0]);
        RecordId next = 0;
        for (int i = 0; i < LINK_BYTES; ++i)
            next |= RecordId(static_cast<unsigned char>(record.at_[2 + i])) << (8 * i);
        return next;
    }

    // Chunks are filled in order; those after `current_` are empty.
    RecordId bump_allocate(std::size_t size) {
        if (chunks_[current_].units + size > USABLE_UNITS) ++current_;
        assert(current_ < chunks_.size());  // space was reserved
        Chunk& chunk = chunks_[current_];
        const RecordId id = (RecordId(current_) << CHUNK_BITS) + chunk.units;
        chunk.units += size;
        assert(chunk.units <= USABLE_UNITS);
        bytes_ += size * UNIT;
        return id;
    }

    void add_chunk() {
        const std::size_t number = chunks_.size();
        if (number >> (RECORD_ID_BITS - CHUNK_BITS)) throw std::bad_alloc();
        chunks_.reserve(number + 1);
        MappedMemory memory(CHUNK_BYTES);
        store_release(chunk_starts()[number], memory.data());  // pairs with `prefetch`
        chunks_.push_back({std::move(memory), 0});
    }

    // Return how many more records fit, whatever their sizes.
    std::size_t free_capacity() const {
        return (USABLE_UNITS - chunks_[current_].units) / MAX_RECORD_UNITS +
               (chunks_.size() - 1 - current_) * (USABLE_UNITS / MAX_RECORD_UNITS);
    }

    // Return how many units of records fit, whatever the sizes of these. A record that does not fit
    // in the rest of a chunk leaves that rest unused.
    std::size_t free_units() const {
        const std::size_t free_here = USABLE_UNITS - chunks_[current_].units;
        return (free_here > MAX_RECORD_UNITS ? free_here - MAX_RECORD_UNITS : 0) +
               (chunks_.size() - 1 - current_) * (USABLE_UNITS - MAX_RECORD_UNITS);
    }

    MappedMemory chunk_starts_;  // reserved for all chunks there can be, so that it never moves
    std::vector<Chunk> chunks_;
    std::size_t current_ = 0;
    std::size_t bytes_ = 0;
    std::array<RecordId, MAX_RECORD_UNITS + 1> free_lists_{};  // by units; 0 ends a list
};

}  // namespace kvs

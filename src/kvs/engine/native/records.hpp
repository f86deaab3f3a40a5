// Where pairs lie: records of one pair each, packed into chunks, with no allocation for each.
//
// A record is the size of its key, the size of its value, the key, the value; it takes a whole
// number of units. A freed one has a key of no bytes, keeps its size, and is reused for the next of
// that size. So all records can be walked from one end to the other. What is freed goes back to
// the kernel only with the whole table.
//
// Guarded by the engine's lock, but for `prefetch`, which anybody may call.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "mapped_memory.hpp"
#include "atomics.hpp"
#include "words.hpp"

namespace kvs {

// Which unit a record begins at, counted over all chunks; 0 is none.
using RecordId = std::uint64_t;

class Record {
public:
    explicit Record(char* at) : at_(at) {}

    Word key() const { return {at_ + 2, std::uint8_t(at_[0])}; }
    Word value() const { return {at_ + 2 + at_[0], std::uint8_t(at_[1])}; }
    bool has_key(const Word& key) const {
        return std::uint8_t(at_[0]) == key.size && equal_bytes(at_ + 2, key.at, key.size);
    }

    // Always as many bytes, which takes no time; chunks end so far behind their last record.
    void copy_value(Value& value) const {
        std::memcpy(value.bytes, at_ + 2 + at_[0], WORD_BYTES);
        value.size = std::uint8_t(at_[1]);
    }

    void set(const Word& key, const Word& value) {
        at_[0] = char(key.size);
        copy_word(at_ + 2, key.at, key.size);
        set_value(value);
    }

    void set_value(const Word& value) {
        at_[1] = char(value.size);
        copy_word(at_ + 2 + at_[0], value.at, value.size);
    }

private:
    friend class Records;
    char* at_;
};

// Records that lie one behind the other, freed ones among them.
struct Span {
    const char* begin;
    const char* end;
};

class Records {
public:
    static constexpr std::size_t UNIT = 4;
    static constexpr std::size_t CHUNK_BYTES = std::size_t(1) << 20;
    static constexpr int RECORD_ID_BITS = 36;

    // Units of a record of so many bytes of key and value. A freed one needs 8 bytes.
    static std::size_t units(std::size_t bytes) {
        return bytes < 6 ? 2 : (bytes + 2 + UNIT - 1) / UNIT;
    }

    // Throws std::bad_alloc.
    Records() : chunk_starts_(sizeof(char*) << (RECORD_ID_BITS - CHUNK_BITS)) {
        add_chunk();
        mark_free(chunk(0), 2);  // and never used: no record has the number 0
        chunks_[0].units = 2;
        bytes_ = 2 * UNIT;
    }

    Record operator[](RecordId id) const {
        return Record(chunk(id >> CHUNK_BITS) + (id & (CHUNK_UNITS - 1)) * UNIT);
    }

    void prefetch(RecordId id) const {
        if (const char* start = load_relaxed(chunk_starts()[id >> CHUNK_BITS]))
            __builtin_prefetch(start + (id & (CHUNK_UNITS - 1)) * UNIT);
    }

    // Let so many records of any size be made without failing; throws std::bad_alloc.
    void reserve_more(std::size_t count) {
        while (free_capacity() < count) add_chunk();
    }

    // Let records of so many units in all be made without failing; throws std::bad_alloc.
    void reserve_units(std::size_t units) {
        while (free_units() < units) add_chunk();
    }

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
        const std::size_t size = units(std::size_t(record.key().size) + record.value().size);
        mark_free(record.at_, size);
        for (int i = 0; i < LINK_BYTES; ++i) record.at_[2 + i] = char(free_lists_[size] >> (8 * i));
        free_lists_[size] = id;
    }

    // Bytes that all records take, freed ones included.
    std::size_t bytes() const { return bytes_; }

    // Throws std::bad_alloc.
    std::vector<Span> spans() const {
        std::vector<Span> spans;
        spans.reserve(chunks_.size());
        for (const Chunk& chunk : chunks_) {
            const char* start = chunk.memory.data();
            spans.push_back({start, start + chunk.units * UNIT});
        }
        return spans;
    }

    // Call `each` with the place of every record of a span; freed ones are free_here out.
    template <typename Visit>
    static void for_each(const Span& span, Visit visit) {
        for (const char* at = span.begin; at != span.end; at += record_bytes(at))
            if (*at) visit(at);
    }

    // Bytes that a record takes, be it freed or not.
    static std::size_t record_bytes(const char* at) {
        return UNIT * (at[0] ? units(std::size_t(at[0]) + std::size_t(at[1])) : std::size_t(at[1]));
    }

private:
    static constexpr int CHUNK_BITS = 18;
    static constexpr std::size_t CHUNK_UNITS = std::size_t(1) << CHUNK_BITS;
    static constexpr std::size_t MAX_RECORD_UNITS = (2 + 2 * WORD_BYTES + UNIT - 1) / UNIT;
    static constexpr int LINK_BYTES = 6;  // of the next freed one of the same size, in a freed one
    static constexpr std::size_t USABLE_UNITS = CHUNK_UNITS - WORD_BYTES / UNIT;
    static_assert(CHUNK_UNITS * UNIT == CHUNK_BYTES);

    struct Chunk {
        MappedMemory memory;
        std::size_t units;  // that have been given out
    };

    char** chunk_starts() const { return reinterpret_cast<char**>(chunk_starts_.data()); }
    char* chunk(std::size_t number) const { return chunk_starts()[number]; }

    static void mark_free(char* at, std::size_t size) {
        at[0] = 0;
        at[1] = char(size);
    }

    static RecordId next_free(Record record) {
        RecordId next = 0;
        for (int i = 0; i < LINK_BYTES; ++i)
            next |= RecordId(static_cast<unsigned char>(record.at_[2 + i])) << (8 * i);
        return next;
    }

    // Chunks are used in order; those behind `current_` are spare.
    RecordId bump_allocate(std::size_t size) {
        if (chunks_[current_].units + size > USABLE_UNITS) ++current_;
        Chunk& chunk = chunks_[current_];
        const RecordId id = (RecordId(current_) << CHUNK_BITS) + chunk.units;
        chunk.units += size;
        bytes_ += size * UNIT;
        return id;
    }

    void add_chunk() {
        const std::size_t number = chunks_.size();
        if (number >> (RECORD_ID_BITS - CHUNK_BITS)) throw std::bad_alloc();
        chunks_.reserve(number + 1);
        MappedMemory memory(CHUNK_BYTES);
        store_release(chunk_starts()[number], memory.data());
        chunks_.push_back({std::move(memory), 0});
    }

    // How many more records of the largest size there is surely free_capacity for.
    std::size_t free_capacity() const {
        return (USABLE_UNITS - chunks_[current_].units) / MAX_RECORD_UNITS +
               (chunks_.size() - 1 - current_) * (USABLE_UNITS / MAX_RECORD_UNITS);
    }

    // How many units there is surely free_capacity for: a record that does not fit in the rest of a chunk
    // leaves that rest unused.
    std::size_t free_units() const {
        const std::size_t free_here = USABLE_UNITS - chunks_[current_].units;
        return (free_here > MAX_RECORD_UNITS ? free_here - MAX_RECORD_UNITS : 0) +
               (chunks_.size() - 1 - current_) * (USABLE_UNITS - MAX_RECORD_UNITS);
    }

    MappedMemory chunk_starts_;  // of chunks; with free_capacity for all there can be, so that it never moves
    std::vector<Chunk> chunks_;
    std::size_t current_ = 0;
    std::size_t bytes_ = 0;
    std::array<RecordId, MAX_RECORD_UNITS + 1> free_lists_{};
};

}  // namespace kvs

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
using Ref = std::uint64_t;

class Record {
public:
    explicit Record(char* at) : at_(at) {}

    Word key() const { return {at_ + 2, std::uint8_t(at_[0])}; }
    Word value() const { return {at_ + 2 + at_[0], std::uint8_t(at_[1])}; }
    bool holds(const Word& key) const {
        return std::uint8_t(at_[0]) == key.size && same_word(at_ + 2, key.at, key.size);
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
    static constexpr int REF_BITS = 36;

    // Units of a record of so many bytes of key and value. A freed one needs 8 bytes.
    static std::size_t units(std::size_t bytes) {
        return bytes < 6 ? 2 : (bytes + 2 + UNIT - 1) / UNIT;
    }

    // Throws std::bad_alloc.
    Records() : starts_(sizeof(char*) << (REF_BITS - CHUNK_BITS)) {
        add_chunk();
        mark_free(chunk(0), 2);  // and never used: no record has the number 0
        used_[0].units = 2;
        bytes_ = 2 * UNIT;
    }

    Record operator[](Ref ref) const {
        return Record(chunk(ref >> CHUNK_BITS) + (ref & (CHUNK_UNITS - 1)) * UNIT);
    }

    void prefetch(Ref ref) const {
        if (const char* start = racy_load(chunks()[ref >> CHUNK_BITS]))
            __builtin_prefetch(start + (ref & (CHUNK_UNITS - 1)) * UNIT);
    }

    // Let so many records of any size be made without failing; throws std::bad_alloc.
    void make_room(std::size_t count) {
        while (room() < count) add_chunk();
    }

    // Let records of so many units in all be made without failing; throws std::bad_alloc.
    void make_room_for_units(std::size_t units) {
        while (room_for_units() < units) add_chunk();
    }

    Ref make(const Word& key, const Word& value) {
        const std::size_t size = units(std::size_t(key.size) + value.size);
        Ref ref = free_[size];
        if (ref) {
            free_[size] = next_free((*this)[ref]);
        } else {
            ref = from_chunk(size);
        }
        (*this)[ref].set(key, value);
        return ref;
    }

    void free(Ref ref) {
        Record record = (*this)[ref];
        const std::size_t size = units(std::size_t(record.key().size) + record.value().size);
        mark_free(record.at_, size);
        for (int i = 0; i < NEXT_BYTES; ++i) record.at_[2 + i] = char(free_[size] >> (8 * i));
        free_[size] = ref;
    }

    // Bytes that all records take, freed ones included.
    std::size_t bytes() const { return bytes_; }

    // Throws std::bad_alloc.
    std::vector<Span> spans() const {
        std::vector<Span> spans;
        spans.reserve(used_.size());
        for (const Chunk& chunk : used_) {
            const char* start = chunk.pages.at();
            spans.push_back({start, start + chunk.units * UNIT});
        }
        return spans;
    }

    // Call `each` with the place of every record of a span; freed ones are left out.
    template <typename Each>
    static void walk(const Span& span, Each each) {
        for (const char* at = span.begin; at != span.end; at += bytes_at(at))
            if (*at) each(at);
    }

    // Bytes that a record takes, be it freed or not.
    static std::size_t bytes_at(const char* at) {
        return UNIT * (at[0] ? units(std::size_t(at[0]) + std::size_t(at[1])) : std::size_t(at[1]));
    }

private:
    static constexpr int CHUNK_BITS = 18;
    static constexpr std::size_t CHUNK_UNITS = std::size_t(1) << CHUNK_BITS;
    static constexpr std::size_t MOST_UNITS = (2 + 2 * WORD_BYTES + UNIT - 1) / UNIT;
    static constexpr int NEXT_BYTES = 6;  // of the next freed one of the same size, in a freed one
    static constexpr std::size_t USABLE_UNITS = CHUNK_UNITS - WORD_BYTES / UNIT;
    static_assert(CHUNK_UNITS * UNIT == CHUNK_BYTES);

    struct Chunk {
        Pages pages;
        std::size_t units;  // that have been given out
    };

    char** chunks() const { return reinterpret_cast<char**>(starts_.at()); }
    char* chunk(std::size_t number) const { return chunks()[number]; }

    static void mark_free(char* at, std::size_t size) {
        at[0] = 0;
        at[1] = char(size);
    }

    static Ref next_free(Record record) {
        Ref next = 0;
        for (int i = 0; i < NEXT_BYTES; ++i)
            next |= Ref(static_cast<unsigned char>(record.at_[2 + i])) << (8 * i);
        return next;
    }

    // Chunks are used in order; those behind `current_` are spare.
    Ref from_chunk(std::size_t size) {
        if (used_[current_].units + size > USABLE_UNITS) ++current_;
        Chunk& chunk = used_[current_];
        const Ref ref = (Ref(current_) << CHUNK_BITS) + chunk.units;
        chunk.units += size;
        bytes_ += size * UNIT;
        return ref;
    }

    void add_chunk() {
        const std::size_t number = used_.size();
        if (number >> (REF_BITS - CHUNK_BITS)) throw std::bad_alloc();
        used_.reserve(number + 1);
        Pages pages(CHUNK_BYTES);
        racy_store(chunks()[number], pages.at());
        used_.push_back({std::move(pages), 0});
    }

    // How many more records of the largest size there is surely room for.
    std::size_t room() const {
        return (USABLE_UNITS - used_[current_].units) / MOST_UNITS +
               (used_.size() - 1 - current_) * (USABLE_UNITS / MOST_UNITS);
    }

    // How many units there is surely room for: a record that does not fit in the rest of a chunk
    // leaves that rest unused.
    std::size_t room_for_units() const {
        const std::size_t left = USABLE_UNITS - used_[current_].units;
        return (left > MOST_UNITS ? left - MOST_UNITS : 0) +
               (used_.size() - 1 - current_) * (USABLE_UNITS - MOST_UNITS);
    }

    Pages starts_;  // of chunks; with room for all there can be, so that it never moves
    std::vector<Chunk> used_;
    std::size_t current_ = 0;
    std::size_t bytes_ = 0;
    std::array<Ref, MOST_UNITS + 1> free_{};
};

}  // namespace kvs

// The memory of pairs: records of one pair each, packed into chunks of 64 KiB, without an
// allocation for each.
//
// A record is short if both words have at most 40 bytes and are plain as they are spelled, and the
// pair does not expire. It is the size of its key (1 byte), the size of its value (1 byte), the key
// and the value. Every other record is extended: a byte of 64 and flags, the sizes, the position in
// the expiry heap if the pair expires, the key, and the value or a pointer to it. An extended
// record of short words that are plain is expiring: it has 128 and the size of its key instead of
// the flags. All are rounded up to whole units of 4 bytes:
//
//     WRITE [(key,value)]            ->   03 05 'k' 'e' 'y' 'v' 'a' 'l' 'u' 'e' .. ..     3 units
//     WRITE [(key,value)] UNTIL 9    ->   83 05 <position, 4 bytes> 'k' 'e' 'y' 'v' 'a' ...
//     WRITE [(key,"a b")] UNTIL 9    ->   49 03 03 <position, 4 bytes> 'k' 'e' 'y' 'a' ' ' 'b' ...
//     WRITE [(key,<100 kB>)]         ->   52 .. <key size, 2 bytes> <value size, 4> 'k' 'e' 'y'
//                                         <LargeValue*, 8 bytes>
//     DELETE [key]                   ->   00 03 <unit of the next freed record, 2 bytes> ...
//     DELETE of a record over 21 units    00 00 .. .. <its units, 4 bytes> ...
//
// Reuse: a freed record of up to 21 units, the size of the largest short one, is linked into the
// free list of its size in its chunk, and reused for the next record of that size. For each size,
// the chunks with a free list are linked too. A chunk without records in use is given back to the
// kernel at once and filled again later.
//
// Evacuation: when freed records take more than a quarter of the bytes in use and 8 MiB, the table
// moves the records in use out of a chunk in which at least the average share is freed, so that the
// chunk can be given back (`Table::release_garbage`). So memory follows what is in use, whatever
// sizes come and go. At most four bytes are moved for each that is freed, and fewer of short
// records, because these move to the places of freed ones.
//
// Invariants:
//   - Records lie one after the other, so that a chunk can be read from its start to its end. A
//     freed record keeps its place and its size.
//   - No record begins at the first unit of a chunk: 0 ends a free list, and record 0, which is in
//     no chunk's list, has no key.
//   - A record moves only by evacuation, never within a command.
//   - Behind the last record of a chunk are at least 40 bytes, so that a copy of 40 bytes from any
//     value of a short record stays within the chunk.
//   - A chunk that is being evacuated has no free list, so no new record gets into it.
//
// Limits: 2^36 units are 256 GiB. Where the kernel makes huge pages of all memory, it may give the
// memory of a chunk back later. The rest of a chunk into which the next record does not fit stays
// unused.
//
// Locking: the engine's lock guards everything but `prefetch`.
#pragma once

#include <array>
#include <cassert>
#include <cstdint>
#include <vector>

#include "atomics.hpp"
#include "expiry_heap.hpp"
#include "large_value.hpp"
#include "mapped_memory.hpp"
#include "words.hpp"

namespace kvs {

// Maximum bytes of a value that lies in its record.
constexpr std::size_t MAX_INLINE_VALUE = std::size_t(1) << 13;

// A view of a value in a record. Valid until the next change of the table, but for the bytes of a
// large value, which are valid as long as a reference to it is held.
struct ValueView {
    const char* at;
    std::size_t size;
    bool is_plain;      // its canonical spelling is its bytes
    LargeValue* large;  // of which these are the bytes, or null

    std::string_view view() const { return {at, size}; }
    std::size_t spelled_size() const {
        return large ? large->spelled_size() : kvs::spelled_size(view(), is_plain);
    }
};

// A value to be written. A value of more than MAX_INLINE_VALUE bytes must be a large one; a shorter
// one may be. The table takes a reference of its own. A large value is written for one key only.
struct NewValue {
    Word bytes;
    bool is_plain;
    LargeValue* large = nullptr;  // whose bytes `bytes` are, or null
    std::uint64_t until = NO_EXPIRY;
};

class Record {
public:
    explicit Record(char* at) : at_(at) {}

    bool is_short() const { return std::uint8_t(at_[0]) < EXTENDED; }

    Word key() const {
        if (is_short()) return {at_ + 2, std::uint8_t(at_[0])};
        return {at_ + header_bytes(), key_size()};
    }
    bool key_is_plain() const { return is_short() || !(flags() & KEY_IS_QUOTED); }

    ValueView value() const {
        if (is_short()) return {at_ + 2 + at_[0], std::uint8_t(at_[1]), true, nullptr};
        const char* const at = at_ + header_bytes() + key_size();
        const bool is_plain = !(flags() & VALUE_IS_QUOTED);
        if (!(flags() & IS_LARGE)) return {at, value_size(), is_plain, nullptr};
        LargeValue* const large = load_unaligned<LargeValue*>(at);
        return {large->data(), large->size(), is_plain, large};
    }

    bool expires() const { return !is_short() && (flags() & EXPIRES); }
    bool is_large() const { return !is_short() && (flags() & IS_LARGE); }

    bool has_key(const Word& key) const {
        const std::uint8_t size = std::uint8_t(at_[0]);
        if (__builtin_expect(size >= EXTENDED, false)) return has_extended_key(key);
        return size == key.size && equal_bytes(at_ + 2, key.at, size);
    }

    // Copy the value of a short record, under the lock. Always 40 bytes, whatever the size: a copy
    // of constant size is a few vector instructions without a branch, which is quicker than a call
    // of memcpy(3) for the exact size. The bytes after the value are copied too and never read;
    // `Records` makes sure that they exist.
    void copy_value(Value& value) const {
        assert(is_short());
        std::memcpy(value.bytes, at_ + 2 + at_[0], WORD_BYTES);
        value.size = std::uint8_t(at_[1]);
    }

    // Of a short record.

    std::size_t short_value_size() const {
        assert(is_short());
        return std::uint8_t(at_[1]);
    }

    void set(const Word& key, const Word& value) {
        assert(key.size && key.size <= WORD_BYTES);
        at_[0] = char(key.size);
        copy_word(at_ + 2, key.at, key.size);
        set_value(value);
    }

    void set_value(const Word& value) {
        assert(is_short() && value.size && value.size <= WORD_BYTES);
        at_[1] = char(value.size);
        copy_word(at_ + 2 + at_[0], value.at, value.size);
    }

    // Of an extended record.

    std::uint32_t heap_position() const {
        assert(expires());
        return load_unaligned<std::uint32_t>(at_ + sizes_bytes());
    }
    void set_heap_position(std::uint32_t position) {
        assert(expires());
        std::memcpy(at_ + sizes_bytes(), &position, sizeof position);
    }

private:
    friend class Records;
    friend class Shape;

    static constexpr std::uint8_t EXTENDED = 64;  // more than the key size of a short record
    static constexpr std::uint8_t EXPIRES = 1;
    static constexpr std::uint8_t IS_LARGE = 2;
    static constexpr std::uint8_t KEY_IS_QUOTED = 4;
    static constexpr std::uint8_t VALUE_IS_QUOTED = 8;
    static constexpr std::uint8_t HAS_WIDE_SIZES = 16;  // of 2 and 4 bytes, else of 1 byte each
    static constexpr std::uint8_t IS_EXPIRING = 128;    // and the size of the key, not flags
    static constexpr std::size_t EXPIRING_SIZES_BYTES = 2;
    static constexpr std::size_t NARROW_SIZES_BYTES = 3;
    static constexpr std::size_t WIDE_SIZES_BYTES = 8;
    static constexpr std::size_t POSITION_BYTES = 4;

    // Of an extended record.

    bool is_expiring() const { return at_[0] & IS_EXPIRING; }
    std::uint8_t flags() const { return is_expiring() ? EXPIRES : std::uint8_t(at_[0]); }

    // The flags and the sizes.
    std::size_t sizes_bytes() const {
        if (is_expiring()) return EXPIRING_SIZES_BYTES;
        return flags() & HAS_WIDE_SIZES ? WIDE_SIZES_BYTES : NARROW_SIZES_BYTES;
    }
    std::size_t header_bytes() const {
        return sizes_bytes() + (flags() & EXPIRES ? POSITION_BYTES : 0);
    }
    std::uint32_t key_size() const {
        if (is_expiring()) return std::uint8_t(at_[0]) - IS_EXPIRING;
        return flags() & HAS_WIDE_SIZES ? load_unaligned<std::uint16_t>(at_ + 2)
                                        : std::uint8_t(at_[1]);
    }
    std::uint32_t value_size() const {
        if (is_expiring()) return std::uint8_t(at_[1]);
        return flags() & HAS_WIDE_SIZES ? load_unaligned<std::uint32_t>(at_ + 4)
                                        : std::uint8_t(at_[2]);
    }
    std::size_t extended_bytes() const {
        const std::size_t value = flags() & IS_LARGE ? sizeof(LargeValue*) : value_size();
        return header_bytes() + key_size() + value;
    }

    COLD bool has_extended_key(const Word& key) const {
        return key_size() == key.size && !std::memcmp(at_ + header_bytes(), key.at, key.size);
    }

    char* at_;
};

// What an extended record of a key and a value looks like.
class Shape {
public:
    Shape(const Key& key, const NewValue& value) : flags_(flags(key, value)) {
        assert(key.size && key.size <= MAX_KEY_BYTES);
        assert(value.large ? value.large->size() == value.bytes.size
                           : value.bytes.size <= MAX_INLINE_VALUE);
        header_bytes_ = Record(reinterpret_cast<char*>(&flags_)).header_bytes();
        bytes_ = header_bytes_ + key.size +
                 (value.large ? sizeof(LargeValue*) : std::size_t(value.bytes.size));
    }

    std::size_t units() const { return (bytes_ + 3) / 4; }

    // Write the record, but for its position in the heap.
    void write(Record record, const Key& key, const NewValue& value) const {
        char* const at = record.at_;
        at[0] = char(flags_);
        if (record.flags() & Record::HAS_WIDE_SIZES) {
            const std::uint16_t key_size = std::uint16_t(key.size);
            at[1] = 0;
            std::memcpy(at + 2, &key_size, sizeof key_size);
            std::memcpy(at + 4, &value.bytes.size, sizeof value.bytes.size);
        } else if (record.is_expiring()) {
            at[1] = char(value.bytes.size);
        } else {
            at[1] = char(key.size);
            at[2] = char(value.bytes.size);
        }
        char* const to = at + header_bytes_;
        std::memcpy(to, key.at, key.size);
        if (value.large)
            std::memcpy(to + key.size, &value.large, sizeof value.large);
        else if (value.bytes.size)
            std::memcpy(to + key.size, value.bytes.at, value.bytes.size);
    }

private:
    static std::uint8_t flags(const Key& key, const NewValue& value) {
        const bool expires = value.until != NO_EXPIRY;
        if (expires && key.is_plain && key.size <= WORD_BYTES && value.is_plain &&
            value.bytes.size <= WORD_BYTES && !value.large)
            return std::uint8_t(Record::IS_EXPIRING | key.size);
        return std::uint8_t(
            Record::EXTENDED | (expires ? Record::EXPIRES : 0) |
            (value.large ? Record::IS_LARGE : 0) | (key.is_plain ? 0 : Record::KEY_IS_QUOTED) |
            (value.is_plain ? 0 : Record::VALUE_IS_QUOTED) |
            (key.size > 255 || value.bytes.size > 255 ? Record::HAS_WIDE_SIZES : 0));
    }

    std::uint8_t flags_;  // the first byte
    std::size_t header_bytes_;
    std::size_t bytes_;
};

// Adjacent records, freed ones among them.
struct Span {
    const char* begin;
    const char* end;
    bool has_large;  // whether a record has a large value
};

class Records {
public:
    static constexpr std::size_t UNIT = 4;  // bytes
    static constexpr std::size_t CHUNK_BYTES = std::size_t(1) << 16;
    static constexpr int RECORD_ID_BITS = 36;
    static constexpr std::size_t MAX_SHORT_UNITS = (2 + 2 * WORD_BYTES + UNIT - 1) / UNIT;
    // Of any record: 12 bytes of flags, sizes and position before the words.
    static constexpr std::size_t MAX_UNITS = (12 + MAX_KEY_BYTES + MAX_INLINE_VALUE) / UNIT;

    // Return the units of a short record whose key and value have `bytes` bytes.
    static std::size_t units(std::size_t bytes) { return (bytes + 2 + UNIT - 1) / UNIT; }

    // Throws std::bad_alloc.
    Records() : region_starts_(sizeof(char*) << (RECORD_ID_BITS - REGION_BITS)) {
        add_region();
        open_chunk();
    }

    Records(const Records&) = delete;
    Records& operator=(const Records&) = delete;

    ~Records() {
        for (std::size_t number = 0; number < chunk_count_; ++number) {
            const Span span = this->span(number);
            if (span.has_large)
                for_each(span, [](const char* at) {
                    const Record record(const_cast<char*>(at));
                    if (record.is_large()) record.value().large->release();
                });
        }
    }

    Record operator[](RecordId id) const {
        assert(id >> REGION_BITS < region_count());
        return Record(region(id >> REGION_BITS) + (id & (REGION_UNITS - 1)) * UNIT);
    }

    // Without the lock. `id` may be of a record that was freed meanwhile; its region stays.
    void prefetch(RecordId id) const {
        if (const char* start = load_relaxed(region_starts()[id >> REGION_BITS]))
            __builtin_prefetch(start + (id & (REGION_UNITS - 1)) * UNIT);
    }

    // Reserve space for `count` more short records. Throws std::bad_alloc.
    void reserve_more(std::size_t count) { reserve_units(count * MAX_SHORT_UNITS); }

    // Reserve space for more records of `units` units in all, of which none has more than
    // `largest`. Throws std::bad_alloc.
    void reserve_units(std::size_t units, std::size_t largest = MAX_SHORT_UNITS) {
        while (free_units(largest) < units) add_region();
    }

    // Each of these creates a record, for which space is reserved.

    ALWAYS_INLINE RecordId create(const Word& key, const Word& value) {
        const RecordId id = allocate(units(std::size_t(key.size) + value.size));
        (*this)[id].set(key, value);
        return id;
    }

    // The record takes a reference to a large value.
    RecordId create(const Shape& shape, const Key& key, const NewValue& value) {
        const RecordId id = allocate(shape.units());
        write(id, shape, key, value);
        return id;
    }

    // Write another record of the same units in the place of one whose large value is detached.
    void rewrite(RecordId id, const Shape& shape, const Key& key, const NewValue& value) {
        assert(record_units((*this)[id].at_) == shape.units());
        write(id, shape, key, value);
    }

    void rewrite(RecordId id, const Word& key, const Word& value) {
        assert(record_units((*this)[id].at_) == units(std::size_t(key.size) + value.size));
        (*this)[id].set(key, value);
    }

    // Return the large value of a record, or null. The caller takes over the record's reference,
    // and frees or rewrites the record next.
    LargeValue* detach_large(RecordId id) {
        const Record record = (*this)[id];
        if (!record.is_large()) return nullptr;
        LargeValue* const large = record.value().large;
        --chunks_[id >> CHUNK_BITS].large_count;
        large_bytes_ -= large->size();
        return large;
    }

    // Free a record without a large value.
    void free(RecordId id) {
        const Record record = (*this)[id];
        assert(id && record.at_[0]);
        const std::size_t size = record_units(record.at_);
        const std::size_t number = id >> CHUNK_BITS;
        Chunk& chunk = chunks_[number];
        live_units_ -= size;
        chunk.live = std::uint16_t(chunk.live - size);
        if (!chunk.live) return empty_chunk(number);
        mark_free(record.at_, size);
        if (size > MAX_SHORT_UNITS || number == evacuated_) return;
        std::memcpy(record.at_ + 2, &chunk.free_lists[size], sizeof(std::uint16_t));
        chunk.free_lists[size] = std::uint16_t(id & (CHUNK_UNITS - 1));
        link_chunk(number, size);
    }

    // Evacuation. Records in use are moved out of a chunk one after the other; meanwhile commands
    // may free and rewrite them. With the last one, the evacuation ends.

    bool is_evacuating() const { return evacuated_ != NO_CHUNK; }

    // Choose a chunk in which at least the average share is freed; return false if a look at some
    // chunks finds none, then the next call looks at others.
    bool start_evacuation() {
        assert(!is_evacuating());
        const std::uint64_t freed = used_units_ - live_units_;
        for (std::size_t tries_left = MAX_LOOKED_AT; tries_left; --tries_left) {
            scan_ = scan_ + 1 < chunk_count_ ? scan_ + 1 : 0;
            Chunk& chunk = chunks_[scan_];
            if (!chunk.live || scan_ == current_) continue;
            const std::uint64_t used_here = chunk.used - FIRST_UNIT;
            const std::uint64_t freed_here = used_here - chunk.live;
            if (!freed_here || freed_here * used_units_ < freed * used_here) continue;
            chunk.free_lists = {};
            evacuated_ = scan_;
            evacuation_unit_ = FIRST_UNIT;
            return true;
        }
        return false;
    }

    // Return in `ids` the next records to be moved, at most `max_count`, and their number.
    std::size_t next_to_evacuate(RecordId* ids, std::size_t max_count) const {
        std::size_t count = 0;
        const RecordId first = RecordId(evacuated_) << CHUNK_BITS;
        for (std::size_t unit = evacuation_unit_; count < max_count;) {
            if (unit == chunks_[evacuated_].used) break;
            const char* const at = (*this)[first + unit].at_;
            if (*at) ids[count++] = first + unit;
            unit += record_units(at);
        }
        assert(count);  // a chunk without records in use is given back
        return count;
    }

    // Move a record, for whose copy space is reserved, and return its new ID.
    RecordId move(RecordId id) {
        assert(id >> CHUNK_BITS == evacuated_);
        const Record record = (*this)[id];
        const std::size_t size = record_units(record.at_);
        const RecordId moved = allocate(size);
        std::memcpy((*this)[moved].at_, record.at_, size * UNIT);
        if (record.is_large()) {
            --chunks_[id >> CHUNK_BITS].large_count;
            ++chunks_[moved >> CHUNK_BITS].large_count;
        }
        free(id);
        return moved;
    }

    // Continue after this record, which was moved.
    void advance_evacuation(RecordId id) {
        if (is_evacuating())
            evacuation_unit_ = (id & (CHUNK_UNITS - 1)) + record_units((*this)[id].at_);
    }

    std::size_t units_of(RecordId id) const { return record_units((*this)[id].at_); }

    // Bytes of all records, freed ones included; bytes of freed ones; bytes of large values.
    std::size_t bytes() const { return used_units_ * UNIT; }
    std::size_t freed_bytes() const { return (used_units_ - live_units_) * UNIT; }
    std::size_t large_bytes() const { return large_bytes_; }

    // Return whether freed records take so many bytes that a chunk is to be evacuated.
    bool has_garbage() const {
        const std::size_t freed = used_units_ - live_units_;
        return freed > MIN_GARBAGE_UNITS && freed > live_units_ / LIVE_PER_GARBAGE;
    }

    // Return a span for each chunk that has records. Throws std::bad_alloc.
    std::vector<Span> spans() const {
        std::vector<Span> spans;
        spans.reserve(chunk_count_);
        for (std::size_t number = 0; number < chunk_count_; ++number)
            if (chunks_[number].live) spans.push_back(span(number));
        return spans;
    }

    // Call `visit` with the address of each record of a span that is not freed.
    template <typename Visit>
    static void for_each(const Span& span, Visit visit) {
        for (const char* at = span.begin; at != span.end; at += record_bytes(at))
            if (*at) visit(at);
    }

    // Return the bytes of a record, freed or not.
    static std::size_t record_bytes(const char* at) { return UNIT * record_units(at); }

private:
    static constexpr int REGION_BITS = 18;  // of units; chunks are mapped 16 at a time
    static constexpr std::size_t REGION_UNITS = std::size_t(1) << REGION_BITS;
    static constexpr int CHUNK_BITS = 14;
    static constexpr std::size_t CHUNK_UNITS = std::size_t(1) << CHUNK_BITS;
    static constexpr std::size_t CHUNKS_PER_REGION = REGION_UNITS / CHUNK_UNITS;
    static constexpr std::size_t FIRST_UNIT = 1;  // of the first record of a chunk
    static constexpr std::size_t END_UNIT = CHUNK_UNITS - WORD_BYTES / UNIT;
    static constexpr std::size_t MIN_GARBAGE_UNITS = (std::size_t(8) << 20) / UNIT;
    static constexpr std::size_t LIVE_PER_GARBAGE = 4;
    static constexpr std::size_t MAX_LOOKED_AT = std::size_t(1) << 14;  // chunks
    static constexpr std::size_t NO_CHUNK = ~std::size_t(0);
    static_assert(CHUNK_UNITS * UNIT == CHUNK_BYTES);
    static_assert(MAX_SHORT_UNITS < 32);  // `linked_sizes` has 32 bits

    // All zeros at first. Lists of chunks consist of numbers of chunks plus 1; 0 ends them. What
    // each `free` looks at is in one cache line.
    struct alignas(64) Chunk {
        std::uint16_t used;          // unit at which the next record begins; 0 if it is empty
        std::uint16_t live;          // units of the records in use
        std::uint32_t linked_sizes;  // a bit for each size in whose list of chunks this one is
        // By units: the unit of the first freed record of this size, or 0.
        std::array<std::uint16_t, MAX_SHORT_UNITS + 1> free_lists;
        // By units: the next chunk that has freed records of this size.
        std::array<std::uint32_t, MAX_SHORT_UNITS + 1> next;
        std::uint16_t large_count;  // records with a large value
        std::uint32_t next_empty;
    };

    char** region_starts() const { return reinterpret_cast<char**>(region_starts_.data()); }
    char* region(std::size_t number) const { return region_starts()[number]; }
    std::size_t region_count() const { return regions_.size(); }
    char* chunk_start(std::size_t number) const {
        return (*this)[RecordId(number) << CHUNK_BITS].at_;
    }

    static std::size_t record_units(const char* at) {
        const std::uint8_t first = std::uint8_t(at[0]);
        if (first - 1u < Record::EXTENDED - 1u)
            return units(std::size_t(at[0]) + std::size_t(at[1]));
        if (first) return (Record(const_cast<char*>(at)).extended_bytes() + UNIT - 1) / UNIT;
        return at[1] ? std::size_t(at[1]) : load_unaligned<std::uint32_t>(at + 4);
    }

    static void mark_free(char* at, std::size_t size) {
        at[0] = 0;
        at[1] = size > MAX_SHORT_UNITS ? 0 : char(size);
        const std::uint32_t long_size = std::uint32_t(size);
        if (size > MAX_SHORT_UNITS) std::memcpy(at + 4, &long_size, sizeof long_size);
    }

    Span span(std::size_t number) const {
        const Chunk& chunk = chunks_[number];
        const char* const start = chunk_start(number);
        const std::size_t used = chunk.used ? chunk.used : FIRST_UNIT;
        return {start + FIRST_UNIT * UNIT, start + used * UNIT, chunk.large_count != 0};
    }

    void write(RecordId id, const Shape& shape, const Key& key, const NewValue& value) {
        shape.write((*this)[id], key, value);
        if (!value.large) return;
        value.large->acquire();
        ++chunks_[id >> CHUNK_BITS].large_count;
        large_bytes_ += value.large->size();
    }

    ALWAYS_INLINE RecordId allocate(std::size_t size) {
        const RecordId id = size <= MAX_SHORT_UNITS && chunk_lists_[size] ? reuse(size) : 0;
        return id ? id : bump_allocate(size);
    }

    // Return a freed record of this size, or 0 if there is none.
    __attribute__((noinline)) RecordId reuse(std::size_t size) {
        while (const std::size_t link = chunk_lists_[size]) {
            const std::size_t number = link - 1;
            Chunk& chunk = chunks_[number];
            const std::uint16_t unit = chunk.free_lists[size];
            const RecordId id = (RecordId(number) << CHUNK_BITS) + unit;
            if (unit) {
                chunk.free_lists[size] = load_unaligned<std::uint16_t>((*this)[id].at_ + 2);
                chunk.live = std::uint16_t(chunk.live + size);
                live_units_ += size;
            }
            if (!chunk.free_lists[size]) {
                chunk_lists_[size] = chunk.next[size];
                chunk.linked_sizes &= ~(std::uint32_t(1) << size);
            }
            if (unit) return id;
        }
        return 0;
    }

    ALWAYS_INLINE RecordId bump_allocate(std::size_t size) {
        if (chunks_[current_].used + size > END_UNIT) open_chunk();
        Chunk& chunk = chunks_[current_];
        const RecordId id = (RecordId(current_) << CHUNK_BITS) + chunk.used;
        chunk.used = std::uint16_t(chunk.used + size);
        chunk.live = std::uint16_t(chunk.live + size);
        assert(chunk.used <= END_UNIT);
        used_units_ += size;
        live_units_ += size;
        return id;
    }

    // Insert a chunk into the list of chunks that have freed records of this size.
    void link_chunk(std::size_t number, std::size_t size) {
        Chunk& chunk = chunks_[number];
        if (chunk.linked_sizes >> size & 1) return;
        chunk.linked_sizes |= std::uint32_t(1) << size;
        chunk.next[size] = chunk_lists_[size];
        chunk_lists_[size] = std::uint32_t(number + 1);
    }

    // Give back a chunk whose last record in use was freed. It may stay in lists of chunks.
    COLD void empty_chunk(std::size_t number) {
        Chunk& chunk = chunks_[number];
        assert(!chunk.live && !chunk.large_count);
        used_units_ -= chunk.used - FIRST_UNIT;
        chunk.free_lists = {};
        if (number == evacuated_) evacuated_ = NO_CHUNK;
        if (number == current_) {
            chunk.used = FIRST_UNIT;
            return;
        }
        discard_pages(chunk_start(number), chunk.used * UNIT);
        chunk.used = 0;
        push_empty(number);
    }

    void push_empty(std::size_t number) {
        chunks_[number].next_empty = empty_chunks_;
        empty_chunks_ = std::uint32_t(number + 1);
        ++empty_count_;
    }

    // Continue in an empty chunk; there is one, because space was reserved.
    COLD void open_chunk() {
        assert(empty_chunks_);
        current_ = empty_chunks_ - 1;
        empty_chunks_ = chunks_[current_].next_empty;
        --empty_count_;
        chunks_[current_].used = FIRST_UNIT;
        populate_pages(chunk_start(current_), CHUNK_BYTES);
    }

    COLD void add_region() {
        const std::size_t number = region_count();
        if (number >> (RECORD_ID_BITS - REGION_BITS)) throw std::bad_alloc();
        chunks_.reserve(chunk_count_ + CHUNKS_PER_REGION);
        regions_.reserve(number + 1);
        regions_.emplace_back(REGION_UNITS * UNIT);
        store_release(region_starts()[number], regions_[number].data());  // pairs with `prefetch`
        chunk_count_ += CHUNKS_PER_REGION;
        for (std::size_t i = 1; i <= CHUNKS_PER_REGION; ++i) push_empty(chunk_count_ - i);
    }

    // Return how many units of records fit, if none has more than `largest`. A record that does not
    // fit in the rest of a chunk leaves that rest unused.
    std::size_t free_units(std::size_t largest) const {
        const std::size_t free_here = END_UNIT - chunks_[current_].used;
        return (free_here > largest ? free_here - largest : 0) +
               empty_count_ * (END_UNIT - FIRST_UNIT - largest);
    }

    MappedMemory region_starts_;  // reserved for all regions there can be, so that it never moves
    std::vector<MappedMemory> regions_;
    MappedArray<Chunk> chunks_;
    std::size_t chunk_count_ = 0;
    std::size_t current_ = 0;  // the chunk that is being filled
    std::uint32_t empty_chunks_ = 0;
    std::size_t empty_count_ = 0;
    std::array<std::uint32_t, MAX_SHORT_UNITS + 1> chunk_lists_{};  // by units
    std::size_t used_units_ = 0;
    std::size_t live_units_ = 0;
    std::size_t large_bytes_ = 0;
    std::size_t evacuated_ = NO_CHUNK;  // the chunk that is being evacuated
    std::size_t evacuation_unit_ = 0;   // of the next record in it to look at
    std::size_t scan_ = 0;              // the last chunk that was considered for evacuation
};

}  // namespace kvs

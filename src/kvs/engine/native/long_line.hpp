// One line of more words than a batch holds. The line is parsed several times, and few of its words
// are in memory at a time: at first it is validated and its words are counted; then, under the
// engine's lock, the words are hashed and executed, 128 at a time.
//
// Cost: beside the script and the output, 4 bytes a word of a valid READ or DELETE, 1 bit a pair of
// a valid WRITE, and nothing for an invalid line. Words are hashed under the lock because 8 bytes
// of hash a word would be 4 times a line of short words.
//
// long_line.cpp is a translation unit of its own: elsewhere its calls would be a second caller of
// the functions that short commands use, and the compiler would inline less. That is a tenth of the
// time of a command.
#pragma once

#include <cstdint>
#include <vector>

#include "grammar.hpp"
#include "mapped_memory.hpp"
#include "state.hpp"

namespace kvs {

class Buffer;

// A sink that counts the words of a line.
struct WordCounter {
    static constexpr bool FOR_LONG_LINES = true;
    struct Size {};

    std::size_t keys = 0;
    std::size_t key_bytes = 0;
    std::size_t record_units = 0;       // units of the records of all pairs
    const char* valid_until = nullptr;  // end of the last valid item of the list

    Size size() const { return {}; }
    void add_key(const KeyHasher&, const char*, std::size_t size) {
        ++keys;
        key_bytes += size;
        key_size_ = size;
    }
    void add_value(const char*, std::size_t size) {
        record_units += Records::units(key_size_ + size);
    }
    void end_item(const char* at) { valid_until = at; }
    void truncate(Size) {}

private:
    std::size_t key_size_ = 0;
};

class LongLine {
public:
    // A READ of an output over `max_output_bytes` is refused.
    LongLine(const LineParser& parser, std::size_t max_output_bytes)
        : parser_(parser), allowed_output_bytes_(max_output_bytes) {}

    // Parse the line that begins at `at`. Throws std::bad_alloc.
    Kind read(const char* at);

    const char* next() const { return parser_.next(); }
    // The end of the last valid item of its list; null if there is none.
    const char* valid_until() const { return counter_.valid_until; }

    // The maximum bytes that `write` appends. The output of a READ has an unknown size before its
    // execution; `execute` reserves space for it.
    std::size_t max_output_bytes() const;

    // Execute the line, under the engine's lock, and append the changes of watched keys to
    // `changes`. Append the output of a READ to `out`; `write` appends that of a DELETE. Return the
    // bytes of output. Throws std::bad_alloc; then nothing has changed and nothing is appended.
    std::size_t execute(const EngineState& state, Buffer& out, std::vector<Change>* changes);

    // Return whether the line was not executed because its output is too long.
    bool is_refused() const { return is_refused_; }

    bool has_changed() const {
        return kind_ == Kind::WRITE || (kind_ == Kind::DELETE && offset_count_ < counter_.keys);
    }

    // Append the record of a DELETE, the keys that were there, for which space is reserved. Before
    // `write`.
    void write_record(Buffer& out);

    // Append the output of a DELETE, for which space is reserved.
    void write(Buffer& out);

private:
    void make_offsets();
    std::uint32_t* offsets() { return reinterpret_cast<std::uint32_t*>(offsets_.data()); }
    void sort();
    std::string_view next_word(std::size_t& number, std::size_t& times);
    std::string_view word(std::size_t number);

    template <typename Visit>
    void for_each_chunk(Visit visit);

    void write_pairs(const EngineState& state, std::vector<Change>* changes);
    std::size_t insert_missing(Table& table);
    std::size_t erase_keys(const EngineState& state, std::vector<Change>* changes);
    std::size_t read_keys(const Table& table, Buffer& out);

    LineParser parser_;
    const std::size_t allowed_output_bytes_;
    bool is_refused_ = false;
    const char* begin_ = nullptr;
    Kind kind_ = Kind::IDLE;
    WordCounter counter_;
    MappedMemory offsets_;  // from `begin_`: of a READ's sorted keys, or of a DELETE's missing keys
    std::size_t offset_count_ = 0;
    std::vector<bool> is_inserted_;  // for each pair of a WRITE
};

// An invalid line, by its offset in the script. Its list is valid up to the offset `valid_until`,
// or up to an unknown offset if that is 0.
struct Invalid {
    std::size_t offset;
    std::size_t valid_until;
    Fault fault;
};

// Validates scripts without executing them.
struct ScriptCheck {
    std::size_t commands = 0;
    std::vector<Invalid> invalid;

    // The byte after the script must be NUL. Throws std::bad_alloc.
    void run(const char* script, std::size_t size);
};

}  // namespace kvs

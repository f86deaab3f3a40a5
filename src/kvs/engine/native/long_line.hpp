// One line of more words than a batch holds. The line is parsed several times, and few of its words
// are in memory at a time: first it is validated and its words are counted; under the engine's lock
// the words are hashed and executed, many at a time.
//
// Cost: beside the script and the output, 4 bytes a word of a valid READ or DELETE, 1 bit a pair of a
// valid WRITE, and nothing for an invalid line. Words are hashed under the lock, because 8 bytes of
// hash a word would be 4 times a line of short words.
//
// It is a translation unit of its own so that the compiler inlines what short commands run through
// as if that had one caller: a tenth of the time of a command.
#pragma once

#include <cstdint>
#include <vector>

#include "grammar.hpp"
#include "mapped_memory.hpp"
#include "state.hpp"

namespace kvs {

class Buffer;

// A sink that counts.
struct Tally {
    static constexpr bool MANY = true;
    struct Size {};

    std::size_t keys = 0;
    std::size_t key_bytes = 0;
    std::size_t units = 0;       // of the records of all pairs
    const char* good = nullptr;  // the end of the last good item of the list

    Size size() const { return {}; }
    void add_key(const Hasher&, const char*, std::size_t size) {
        ++keys;
        key_bytes += size;
        key_size_ = size;
    }
    void add_value(const char*, std::size_t size) { units += Records::units(key_size_ + size); }
    void good_until(const char* at) { good = at; }
    void cut(Size) {}

private:
    std::size_t key_size_ = 0;
};

class LongLine {
public:
    explicit LongLine(const Grammar& grammar) : grammar_(grammar) {}

    // Read the line that begins at `at`; throws std::bad_alloc.
    Kind read(const char* at);

    const char* next() const { return grammar_.next(); }
    // The end of the last good item of its list; null if it has none.
    const char* good() const { return tally_.good; }

    // What `write` writes at most. Of a READ this is not known before its values are; `execute`
    // makes room for it.
    std::size_t max_output() const;

    // Execute the line, under the lock, and put the changes of watched keys behind `changes`.
    // Return how much it writes: a READ behind `out`, a DELETE in `write`. Throws std::bad_alloc;
    // then the line has changed nothing and written nothing.
    std::size_t execute(const State& state, Buffer& out, std::vector<Change>* changes);

    bool has_changed() const {
        return kind_ == Kind::WRITE || (kind_ == Kind::DELETE && count_ < tally_.keys);
    }

    // Put what is not written yet behind `out`, where there is room.
    void write(Buffer& out);

private:
    void make_offsets();
    std::uint32_t* offsets() { return reinterpret_cast<std::uint32_t*>(offsets_.at()); }
    void sort();
    std::string_view next_word(std::size_t& number, std::size_t& times);
    std::string_view word(std::size_t number);

    template <typename Each>
    void for_each(Each each);

    void write_pairs(const State& state, std::vector<Change>* changes);
    std::size_t insert(Table& table);
    std::size_t remove_keys(const State& state, std::vector<Change>* changes);
    std::size_t read_keys(const Table& table, Buffer& out);

    Grammar grammar_;
    const char* begin_ = nullptr;
    Kind kind_ = Kind::IDLE;
    Tally tally_;
    Pages offsets_;               // from the begin of the line: of a READ's keys in order,
    std::size_t count_ = 0;       // and of the keys that a DELETE missed
    std::vector<bool> inserted_;  // pairs of a WRITE
};

// An invalid line, by its offset in the script. The list in it is valid up to `good`, which is 0
// where that is not known.
struct Invalid {
    std::size_t offset;
    std::size_t good;
};

// Validates scripts and executes nothing.
struct Check {
    std::size_t commands = 0;
    std::vector<Invalid> invalid;

    // The byte behind the script is NUL. Throws std::bad_alloc.
    void run(const char* script, std::size_t size);
};

}  // namespace kvs

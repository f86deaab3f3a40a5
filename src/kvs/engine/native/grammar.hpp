// One line of a script: which command it is, and its words. What is valid is said in
// kvs/language/grammar.py; this must accept exactly the same, and tests hold the two together.
//
// Law: the byte behind the script can be read, and is NUL. It is in no word and ends no line, so
// nothing here looks whether the script goes on before it looks at a byte.
#pragma once

#include "pod_vector.hpp"
#include "scan.hpp"
#include "siphash.hpp"
#include "words.hpp"

namespace kvs {

enum class Kind : std::uint8_t { IDLE, WRITE, READ, DELETE, WAIT, SHOW, BACKUP, HELP, INVALID };

// Makes keys of words that stand in a script, which ends at `end`.
class Hasher {
public:
    Hasher(HashKey key, const char* end) : hash_key_(key), end_(end) {}

    void set(Key& key, const char* at, std::size_t size) const {
        const std::uint64_t block = first_block(at, size);
        key.at = at;
        key.size = std::uint8_t(size);
        key.missing = false;
        key.hash = size < 8 ? siphash13(hash_key_, block, size) : siphash13(hash_key_, at, size);
        key.order = sip::big_endian(block);
        key.seen = nullptr;
    }

    // The first bytes of a word, 8 at most, as a block of a hash.
    std::uint64_t first_block(const char* at, std::size_t size) const {
        if (end_ - at < 7) return sip::rest(at, size);
        const std::uint64_t block = sip::block(at, 8);
        return size < 8 ? block & ((std::uint64_t(1) << 8 * size) - 1) : block;
    }

private:
    const HashKey hash_key_;
    const char* const end_;
};

// What takes the words of a line, a `Sink`, has four methods: `add_key`, `add_value`, which follows
// its key, `good_until`, after each item of a list with what closes it, and `cut`, which drops the
// words of a line that proves to be invalid: all since `size`.

// A sink for lines of many words says so by `MANY`: lists without blanks are read for it faster.

// A sink that holds the words of several lines, one behind the other.
struct Words {
    // Throws ArrayFull at a line of more words; see long_line.hpp.
#ifdef KVS_FEW_WORDS  // for tests that make long lines of short ones
    static constexpr std::size_t MAX_WORDS = 1 << 6;
#else
    static constexpr std::size_t MAX_WORDS = 1 << 14;
#endif
    static constexpr bool MANY = false;

    struct Size {
        std::size_t keys, values;
    };

    Array<Key, MAX_WORDS> keys;
    Array<Word, MAX_WORDS> values;  // of WRITEs: as many as their keys

    Size size() const { return {keys.size(), values.size()}; }
    void add_key(const Hasher& hasher, const char* at, std::size_t size) {
        hasher.set(keys.add(), at, size);
    }
    void add_value(const char* at, std::size_t size) {
        Word& word = values.add();
        word.at = at;
        word.size = std::uint8_t(size);
    }
    void good_until(const char*) {}
    void cut(Size size) {
        keys.cut(size.keys);
        values.cut(size.values);
    }
};

class Grammar {
public:
    Grammar(HashKey key, const char* end) : hasher_(key, end), end_(end) {}

    // Read the line that begins at `at`, which is before the end; throws what `words` throws.
    template <typename Sink>
    Kind line(const char* at, Sink& words) {
        const auto before = words.size();
        if (const char* behind = command(blanks(at), words))
            if (ended(blanks(behind))) return kind_;
        words.cut(before);
        const void* newline = std::memchr(at, '\n', std::size_t(end_ - at));
        next_ = newline ? static_cast<const char*>(newline) + 1 : end_;
        return Kind::INVALID;
    }

    // Of the line last read: where the next begins, and of a WAIT how long.
    const char* next() const { return next_; }
    std::uint64_t milliseconds() const { return milliseconds_; }
    const char* end() const { return end_; }
    const Hasher& hasher() const { return hasher_; }

private:
    // Each of these takes the place where something is to stand, and returns the one behind it; null
    // if something else is there.

    static const char* blanks(const char* at) {
        while (*at == ' ' || *at == '\t') ++at;
        return at;
    }

    // Blanks before it are the exception.
    static const char* symbol(const char* at, char byte) {
        if (*at == byte) return at + 1;
        at = blanks(at);
        return *at == byte ? at + 1 : nullptr;
    }

    template <std::size_t N>
    static const char* name(const char* at, const char (&text)[N]) {
        for (std::size_t i = 0; i < N - 1; ++i)
            if (at[i] != text[i]) return nullptr;
        return at + N - 1;
    }

    bool ended(const char* at) {
        if (*at == '\r') ++at;
        next_ = at == end_ ? at : at + 1;
        return at == end_ || *at == '\n';
    }

    template <typename Sink>
    const char* command(const char* at, Sink& words) {
        switch (*at) {
        case 'W':
            kind_ = Kind::WRITE;
            if (const char* behind = name(at, "WRITE")) return pairs(behind, words);
            kind_ = Kind::WAIT;
            return number(name(at, "WAIT"));
        case 'R': kind_ = Kind::READ; return keys(name(at, "READ"), words);
        case 'D': kind_ = Kind::DELETE; return keys(name(at, "DELETE"), words);
        case 'S': kind_ = Kind::SHOW; return name(at, "SHOW");
        case 'B': kind_ = Kind::BACKUP; return name(at, "BACKUP");
        case 'H': kind_ = Kind::HELP; return name(at, "HELP");
        case '#': {
            kind_ = Kind::IDLE;
            const void* newline = std::memchr(at, '\n', std::size_t(end_ - at));
            return newline ? static_cast<const char*>(newline) : end_;
        }
        default: kind_ = Kind::IDLE; return at;
        }
    }

    template <typename Sink>
    const char* pairs(const char* at, Sink& words) {
        at = symbol(blanks(at), '[');
        if (!at) return nullptr;
        for (unsigned number = 0;; ++number) {
            if constexpr (Sink::MANY)
                if (const char* const begin = at; number % SLOW == 0) {
                    at = plain_pairs(at, words);
                    const char* const behind = symbol(at, ']');
                    if (at != begin && behind) return behind;
                }
            if (!(at = symbol(at, '('))) return nullptr;
            if (!(at = key(at, words)) || !(at = symbol(at, ','))) return nullptr;
            if (!(at = value(at, words)) || !(at = symbol(at, ')'))) return nullptr;
            words.good_until(at);
            if (const char* behind = symbol(at, ']')) return behind;
        }
    }

    template <typename Sink>
    const char* keys(const char* at, Sink& words) {
        if (!at) return nullptr;
        at = symbol(blanks(at), '[');
        if (!at) return nullptr;
        for (unsigned number = 0;; ++number) {
            if constexpr (Sink::MANY)
                if (number % SLOW == 0) at = plain_keys(at, words);
            if (!(at = key(at, words))) return nullptr;
            const char* const behind = symbol(at, ',');
            if (!behind) return symbol(at, ']');
            words.good_until(at = behind);
        }
    }

    // These two pass over items of a list that are without blanks, and return where the next is to
    // stand. They stop early at whatever is not so plain; it is read one by one then.

#ifdef KVS_SSE2
    template <typename Sink>
    const char* plain_keys(const char* at, Sink& words) {
        Stops stops(at, end_);
        while (const char* const stop = stops.next(at)) {
            if (*stop != ',' || !is_size(stop - at)) break;
            words.add_key(hasher_, at, std::size_t(stop - at));
            words.good_until(at = stop + 1);
        }
        return at;
    }

    template <typename Sink>
    const char* plain_pairs(const char* at, Sink& words) {
        Stops stops(at, end_);
        while (*at == '(') {
            const char* const key = at + 1;
            const char* const comma = stops.next(key);
            if (!comma || *comma != ',' || !is_size(comma - key)) break;
            const char* const value = comma + 1;
            const char* const stop = stops.next(value);
            if (!stop || *stop != ')' || !is_size(stop - value)) break;
            const std::size_t size = std::size_t(stop - value);
            if (is_reserved({value, size})) break;
            words.add_key(hasher_, key, std::size_t(comma - key));
            words.add_value(value, size);
            words.good_until(at = stop + 1);
        }
        return at;
    }
#else
    template <typename Sink>
    const char* plain_keys(const char* at, Sink&) { return at; }
    template <typename Sink>
    const char* plain_pairs(const char* at, Sink&) { return at; }
#endif

    static bool is_size(std::ptrdiff_t size) {
        return size > 0 && size <= std::ptrdiff_t(WORD_BYTES);
    }

    static bool is_reserved(std::string_view value) {
        return value == MISSING_VALUE || value == MISSING_KEY;
    }

    template <typename Sink>
    const char* key(const char* at, Sink& words) {
        const std::size_t size = word(at);
        if (!size) return nullptr;
        words.add_key(hasher_, at, size);
        return at + size;
    }

    template <typename Sink>
    const char* value(const char* at, Sink& words) {
        const std::size_t size = word(at);
        if (!size) return nullptr;
        if (is_reserved({at, size})) return nullptr;
        words.add_value(at, size);
        return at + size;
    }

    // Move `at` to the word that stands there; return its size, 0 if there is none.
    std::size_t word(const char*& at) const {
        std::size_t size = word_size(at, end_);
        if (!size) size = word_size(at = blanks(at), end_);
        return size > WORD_BYTES ? 0 : size;
    }

    const char* number(const char* at) {
        if (!at) return nullptr;
        at = blanks(at);
        milliseconds_ = 0;
        int digits = 0;
        for (; digits <= 10 && *at >= '0' && *at <= '9'; ++digits)
            milliseconds_ = 10 * milliseconds_ + std::uint64_t(*at++ - '0');
        return digits && digits <= 10 ? at : nullptr;
    }

    // After so many items that were read one by one, the faster way is tried again.
    static constexpr unsigned SLOW = 16;

    const Hasher hasher_;
    const char* const end_;
    const char* next_ = nullptr;
    Kind kind_ = Kind::IDLE;
    std::uint64_t milliseconds_ = 0;
};

}  // namespace kvs

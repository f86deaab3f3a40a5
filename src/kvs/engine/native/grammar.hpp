// The parser of the lines that most scripts consist of: a WRITE, READ or DELETE of plain words of
// at most 40 bytes, without other steps and expiries, a WAIT, a SHOW without arguments, BACKUP,
// HELP, comments and empty lines. It refuses every other line, which is for `GeneralParser`.
// kvs/language/grammar.py defines what is valid. The two parsers together must accept exactly the
// same lines, which tests verify.
//
// Invariant: the byte after the script can be read and is NUL. A NUL is in no word and ends no
// line, so the parser compares bytes without comparing pointers with the end first.
#pragma once

#include <cassert>

#include "pod_vector.hpp"
#include "scan.hpp"
#include "siphash.hpp"
#include "words.hpp"

namespace kvs {

enum class Kind : std::uint8_t {
    IDLE,
    WRITE,
    READ,
    DELETE,
    STEPS,  // any other line of WRITE, READ, DELETE, ADD and IF
    COUNT,
    CLEAR,
    EXPIRE,
    WAIT,
    SHOW,
    BACKUP,
    HELP,
    INVALID,
};

// Why a line is invalid.
enum class Fault : std::uint8_t { SYNTAX, LINE_BYTES, OUTPUT_BYTES };

// Maximum bytes of a line without its ending, but for a comment.
constexpr std::size_t MAX_LINE_BYTES = std::size_t(1) << 26;

inline const char* skip_blanks(const char* at) {
    while (*at == ' ' || *at == '\t') ++at;
    return at;
}

// Return the end of a line that ends at `end`, without its line ending.
inline const char* end_without_ending(const char* begin, const char* end) {
    if (end != begin && end[-1] == '\n') --end;
    if (end != begin && end[-1] == '\r') --end;
    return end;
}

// Return whether a line that is not a comment is too long.
inline bool is_too_long(const char* begin, const char* end, std::size_t max_bytes) {
    return std::size_t(end - begin) > max_bytes &&
           std::size_t(end_without_ending(begin, end) - begin) > max_bytes;
}

// Makes keys of words of a script that ends at `end`.
class KeyHasher {
public:
    KeyHasher(HashKey key, const char* end) : hash_key_(key), end_(end) {}

    void make_key(Key& key, const char* at, std::size_t size) const {
        const std::uint64_t block = first_block(at, size);
        key.at = at;
        key.size = std::uint32_t(size);
        key.missing = false;
        key.is_plain = true;
        key.hash = size < 8 ? siphash13(hash_key_, block, size) : siphash13(hash_key_, at, size);
        key.sort_prefix = sip::big_endian(block);
        key.slot_hint = nullptr;
    }

    // Return the first bytes of a word, at most 8, as a block of the hash.
    std::uint64_t first_block(const char* at, std::size_t size) const {
        if (end_ - at < 7) return sip::rest(at, size);
        const std::uint64_t block = sip::block(at, 8);
        return size < 8 ? block & ((std::uint64_t(1) << 8 * size) - 1) : block;
    }

    HashKey hash_key() const { return hash_key_; }

private:
    const HashKey hash_key_;
    const char* const end_;
};

// A sink receives the words of a line. It has these methods: `add_key`; `add_value`, which follows
// the `add_key` of its key; `end_item` after each item of a list, with the end of its delimiter;
// and `size` and `truncate`, by which the parser removes the words of an invalid line.

// A sink for long lines sets `FOR_LONG_LINES`: lists without blanks are parsed faster for it.

// A sink that holds the words of several lines.
struct Words {
    // A line of more words throws CapacityExceeded; see long_line.hpp.
#ifdef KVS_FEW_WORDS  // for tests that make long lines of short ones
    static constexpr std::size_t MAX_WORDS = 1 << 6;
#else
    static constexpr std::size_t MAX_WORDS = 1 << 14;
#endif
    static constexpr bool FOR_LONG_LINES = false;

    struct Size {
        std::size_t keys, values;
    };

    PodVector<Key, MAX_WORDS> keys;
    PodVector<Word, MAX_WORDS> values;  // of WRITEs, one for each of their keys

    Size size() const { return {keys.size(), values.size()}; }
    void add_key(const KeyHasher& hasher, const char* at, std::size_t size) {
        hasher.make_key(keys.push_uninitialized(), at, size);
    }
    void add_value(const char* at, std::size_t size) {
        Word& word = values.push_uninitialized();
        word.at = at;
        word.size = std::uint32_t(size);
    }
    void end_item(const char*) {}
    void truncate(Size size) {
        keys.truncate(size.keys);
        values.truncate(size.values);
    }
};

class LineParser {
public:
    LineParser(HashKey key, const char* end) : hasher_(key, end), end_(end) {
        assert(*end == '\0');
    }

    // Parse the line that begins at `at`, before the end. Throws what `words` throws.
    template <typename Sink>
    Kind parse_line(const char* at, Sink& words) {
        const auto size_before = words.size();
        if (const char* next = parse_command(skip_blanks(at), words))
            if (at_line_end(skip_blanks(next))) return kind_;
        words.truncate(size_before);
        const void* newline = std::memchr(at, '\n', std::size_t(end_ - at));
        next_ = newline ? static_cast<const char*>(newline) + 1 : end_;
        return Kind::INVALID;
    }

    // Of the last line: the start of the next one, and the milliseconds of a WAIT.
    const char* next() const { return next_; }
    std::uint64_t wait_ms() const { return wait_ms_; }
    const char* end() const { return end_; }
    const KeyHasher& hasher() const { return hasher_; }

private:
    // Each of these functions takes the position of a part of a line, and returns the position
    // after the part, or null if the part is not there.

    // Blanks before the byte are rare, so the byte itself is tested first.
    static const char* expect_byte(const char* at, char byte) {
        if (*at == byte) return at + 1;
        at = skip_blanks(at);
        return *at == byte ? at + 1 : nullptr;
    }

    template <std::size_t N>
    static const char* expect_text(const char* at, const char (&text)[N]) {
        for (std::size_t i = 0; i < N - 1; ++i)
            if (at[i] != text[i]) return nullptr;
        return at + N - 1;
    }

    bool at_line_end(const char* at) {
        if (*at == '\r') ++at;
        next_ = at == end_ ? at : at + 1;
        return at == end_ || *at == '\n';
    }

    template <typename Sink>
    const char* parse_command(const char* at, Sink& words) {
        switch (*at) {
        case 'W':
            kind_ = Kind::WRITE;
            if (const char* next = expect_text(at, "WRITE")) return parse_pairs(next, words);
            kind_ = Kind::WAIT;
            return parse_milliseconds(expect_text(at, "WAIT"));
        case 'R': kind_ = Kind::READ; return parse_keys(expect_text(at, "READ"), words);
        case 'D': kind_ = Kind::DELETE; return parse_keys(expect_text(at, "DELETE"), words);
        case 'S': kind_ = Kind::SHOW; return expect_text(at, "SHOW");
        case 'B': kind_ = Kind::BACKUP; return expect_text(at, "BACKUP");
        case 'H': kind_ = Kind::HELP; return expect_text(at, "HELP");
        case '#': {
            kind_ = Kind::IDLE;
            const void* newline = std::memchr(at, '\n', std::size_t(end_ - at));
            return newline ? static_cast<const char*>(newline) : end_;
        }
        default: kind_ = Kind::IDLE; return at;
        }
    }

    template <typename Sink>
    const char* parse_pairs(const char* at, Sink& words) {
        at = expect_byte(skip_blanks(at), '[');
        if (!at) return nullptr;
        for (unsigned number = 0;; ++number) {
            if constexpr (Sink::FOR_LONG_LINES)
                if (const char* const begin = at; number % SLOW_ITEMS == 0) {
                    at = plain_pairs(at, words);
                    const char* const next = expect_byte(at, ']');
                    if (at != begin && next) return next;
                }
            if (!(at = expect_byte(at, '('))) return nullptr;
            if (!(at = parse_key(at, words)) || !(at = expect_byte(at, ','))) return nullptr;
            if (!(at = parse_value(at, words)) || !(at = expect_byte(at, ')'))) return nullptr;
            words.end_item(at);
            if (const char* next = expect_byte(at, ']')) return next;
        }
    }

    template <typename Sink>
    const char* parse_keys(const char* at, Sink& words) {
        if (!at) return nullptr;
        at = expect_byte(skip_blanks(at), '[');
        if (!at) return nullptr;
        for (unsigned number = 0;; ++number) {
            if constexpr (Sink::FOR_LONG_LINES)
                if (number % SLOW_ITEMS == 0) at = plain_keys(at, words);
            if (!(at = parse_key(at, words))) return nullptr;
            const char* const next = expect_byte(at, ',');
            if (!next) return expect_byte(at, ']');
            words.end_item(at = next);
        }
    }

    // These two parse the items of a list up to the first that has a blank or is not valid, and
    // return the position of that item, which the general code parses then.

#ifdef KVS_SSE2
    template <typename Sink>
    const char* plain_keys(const char* at, Sink& words) {
        DelimiterScanner delimiters(at, end_);
        while (const char* const delimiter = delimiters.next(at)) {
            if (*delimiter != ',' || !is_word_size(delimiter - at) || *at == '"') break;
            words.add_key(hasher_, at, std::size_t(delimiter - at));
            words.end_item(at = delimiter + 1);
        }
        return at;
    }

    template <typename Sink>
    const char* plain_pairs(const char* at, Sink& words) {
        DelimiterScanner delimiters(at, end_);
        while (*at == '(') {
            const char* const key = at + 1;
            const char* const comma = delimiters.next(key);
            if (!comma || *comma != ',' || !is_word_size(comma - key) || *key == '"') break;
            const char* const value = comma + 1;
            const char* const delimiter = delimiters.next(value);
            if (!delimiter || *delimiter != ')' || !is_word_size(delimiter - value)) break;
            const std::size_t size = std::size_t(delimiter - value);
            if (is_reserved({value, size}) || *value == '"') break;
            words.add_key(hasher_, key, std::size_t(comma - key));
            words.add_value(value, size);
            words.end_item(at = delimiter + 1);
        }
        return at;
    }
#else
    template <typename Sink>
    const char* plain_keys(const char* at, Sink&) {
        return at;
    }
    template <typename Sink>
    const char* plain_pairs(const char* at, Sink&) {
        return at;
    }
#endif

    static bool is_word_size(std::ptrdiff_t size) {
        return size > 0 && size <= std::ptrdiff_t(WORD_BYTES);
    }

    static bool is_reserved(std::string_view value) {
        return value == MISSING_VALUE || value == MISSING_KEY;
    }

    template <typename Sink>
    const char* parse_key(const char* at, Sink& words) {
        const std::size_t size = find_word(at);
        if (!size) return nullptr;
        words.add_key(hasher_, at, size);
        return at + size;
    }

    template <typename Sink>
    const char* parse_value(const char* at, Sink& words) {
        const std::size_t size = find_word(at);
        if (!size) return nullptr;
        if (is_reserved({at, size})) return nullptr;
        words.add_value(at, size);
        return at + size;
    }

    // Move `at` to the word after any blanks; return the size of the word, 0 if there is none or if
    // it is quoted.
    ALWAYS_INLINE std::size_t find_word(const char*& at) const {
        const std::size_t size = word_size(at, end_);
        if (__builtin_expect(size - 1 < WORD_BYTES && *at != '"', true)) return size;
        return rare_word_size(at = skip_blanks(at), end_);
    }

    // The same after blanks, in a function that is not inlined.
    COLD static std::size_t rare_word_size(const char* at, const char* end) {
        const std::size_t size = word_size(at, end);
        return size > WORD_BYTES || *at == '"' ? 0 : size;
    }

    const char* parse_milliseconds(const char* at) {
        if (!at) return nullptr;
        at = skip_blanks(at);
        wait_ms_ = 0;
        int digits = 0;
        for (; digits <= 10 && *at >= '0' && *at <= '9'; ++digits)
            wait_ms_ = 10 * wait_ms_ + std::uint64_t(*at++ - '0');
        return digits && digits <= 10 ? at : nullptr;
    }

    // Items that the general code parses before the faster one is tried again.
    static constexpr unsigned SLOW_ITEMS = 16;

    const KeyHasher hasher_;
    const char* const end_;
    const char* next_ = nullptr;
    Kind kind_ = Kind::IDLE;
    std::uint64_t wait_ms_ = 0;
};

}  // namespace kvs

// One line of a script: which command it is, and its words. What is valid is said in
// kvs/language/grammar.py; this must accept exactly the same, and tests hold the two together.
//
// Law: the byte behind the script can be read, and is NUL. It is in no word and ends no line, so
// nothing here looks whether the script goes on before it looks at a byte.
#pragma once

#include "array.hpp"
#include "scan.hpp"
#include "siphash.hpp"
#include "words.hpp"

namespace kvs {

enum class Kind : std::uint8_t { IDLE, WRITE, READ, DELETE, WAIT, SHOW, BACKUP, HELP, INVALID };

// What the words of several lines are put into, one behind the other.
struct Words {
    Array<Key> keys;
    Array<Word> values;  // of WRITEs: as many as their keys

    void clear() {
        keys.cut(0);
        values.cut(0);
    }
};

class Grammar {
public:
    Grammar(HashKey key, const char* end) : hash_key_(key), end_(end) {}

    // Read the line that begins at `at`, which is before the end; throws std::bad_alloc.
    Kind line(const char* at, Words& words) {
        const std::size_t keys = words.keys.size(), values = words.values.size();
        if (const char* behind = command(blanks(at), words))
            if (ended(blanks(behind))) return kind_;
        words.keys.cut(keys);
        words.values.cut(values);
        const void* newline = std::memchr(at, '\n', std::size_t(end_ - at));
        next_ = newline ? static_cast<const char*>(newline) + 1 : end_;
        return Kind::INVALID;
    }

    // Of the line last read: where the next begins, and of a WAIT how long.
    const char* next() const { return next_; }
    std::uint64_t milliseconds() const { return milliseconds_; }

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

    const char* command(const char* at, Words& words) {
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

    const char* pairs(const char* at, Words& words) {
        at = symbol(blanks(at), '[');
        if (!at) return nullptr;
        do {
            if (!(at = symbol(at, '('))) return nullptr;
            if (!(at = key(at, words)) || !(at = symbol(at, ','))) return nullptr;
            if (!(at = value(at, words)) || !(at = symbol(at, ')'))) return nullptr;
            if (const char* behind = symbol(at, ']')) return behind;
        } while (true);
    }

    const char* keys(const char* at, Words& words) {
        if (!at) return nullptr;
        at = symbol(blanks(at), '[');
        if (!at) return nullptr;
        do {
            if (!(at = key(at, words))) return nullptr;
            const char* const behind = symbol(at, ',');
            if (!behind) return symbol(at, ']');
            at = behind;
        } while (true);
    }

    const char* key(const char* at, Words& words) {
        const std::size_t size = word(at);
        if (!size) return nullptr;
        const std::uint64_t block = first_block(at, size);
        Key& key = words.keys.add();
        key.at = at;
        key.size = std::uint8_t(size);
        key.missing = false;
        key.hash = size < 8 ? siphash13(hash_key_, block, size) : siphash13(hash_key_, at, size);
        key.order = sip::big_endian(block);
        key.seen = nullptr;
        return at + size;
    }

    const char* value(const char* at, Words& words) {
        const std::size_t size = word(at);
        if (!size) return nullptr;
        const std::string_view view(at, size);
        if (view == MISSING_VALUE || view == MISSING_KEY) return nullptr;
        Word& word = words.values.add();
        word.at = at;
        word.size = std::uint8_t(size);
        return at + size;
    }

    // Move `at` to the word that stands there; return its size, 0 if there is none.
    std::size_t word(const char*& at) const {
        std::size_t size = word_size(at, end_);
        if (!size) size = word_size(at = blanks(at), end_);
        return size > WORD_BYTES ? 0 : size;
    }

    // The first bytes of a word, 8 at most, as a block of a hash.
    std::uint64_t first_block(const char* at, std::size_t size) const {
        if (end_ - at < 7) return sip::rest(at, size);
        const std::uint64_t block = sip::block(at, 8);
        return size < 8 ? block & ((std::uint64_t(1) << 8 * size) - 1) : block;
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

    const HashKey hash_key_;
    const char* const end_;
    const char* next_ = nullptr;
    Kind kind_ = Kind::IDLE;
    std::uint64_t milliseconds_ = 0;
};

}  // namespace kvs

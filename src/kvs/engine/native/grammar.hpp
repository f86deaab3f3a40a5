// One line of a script: which command it is, and its words. What is valid is said in
// kvs/language/grammar.py; this must accept exactly the same, and tests hold the two together.
//
// Law: the byte behind the script can be read, and is NUL. It is in no word and ends no line, so
// nothing here looks whether the script goes on before it looks at a byte.
#pragma once

#include <array>
#include <vector>

#include "siphash.hpp"
#include "words.hpp"

namespace kvs {

enum class Kind : std::uint8_t { IDLE, WRITE, READ, DELETE, WAIT, SHOW, BACKUP, HELP, INVALID };

// What the words of several lines are put into, one behind the other.
struct Words {
    std::vector<Key> keys;
    std::vector<Word> values;  // of WRITEs: as many as their keys

    void clear() {
        keys.clear();
        values.clear();
    }
};

constexpr std::array<bool, 256> ends_word() {
    std::array<bool, 256> ends{};
    for (const char byte : {'\0', '\n', '\r', ' ', '\t', ',', ')', ']'})
        ends[static_cast<unsigned char>(byte)] = true;
    return ends;
}

constexpr std::array<bool, 256> ENDS_WORD = ends_word();

class Grammar {
public:
    Grammar(HashKey key, const char* end) : key_(key), end_(end) {}

    // Read the line that begins at `at`, which is before the end; throws std::bad_alloc.
    Kind line(const char* at, Words& words) {
        at_ = at;
        const std::size_t keys = words.keys.size(), values = words.values.size();
        const Kind kind = command(words);
        if (kind != Kind::INVALID && ended()) return kind;
        words.keys.resize(keys);
        words.values.resize(values);
        const void* newline = std::memchr(at, '\n', std::size_t(end_ - at));
        at_ = newline ? static_cast<const char*>(newline) + 1 : end_;
        return Kind::INVALID;
    }

    // Of the line last read: where the next begins, and of a WAIT how long.
    const char* next() const { return at_; }
    std::uint64_t milliseconds() const { return milliseconds_; }

private:
    static bool blank(char byte) { return byte == ' ' || byte == '\t'; }

    void blanks() {
        while (blank(*at_)) ++at_;
    }

    bool symbol(char byte) {
        blanks();
        if (*at_ != byte) return false;
        ++at_;
        return true;
    }

    template <std::size_t N>
    bool name(const char (&text)[N]) {
        for (std::size_t i = 0; i < N - 1; ++i)
            if (at_[i] != text[i]) return false;
        at_ += N - 1;
        return true;
    }

    bool ended() {
        blanks();
        if (*at_ == '\r') ++at_;
        if (at_ == end_) return true;
        return *at_++ == '\n';
    }

    Kind command(Words& words) {
        blanks();
        switch (*at_) {
        case 'W':
            if (name("WRITE")) return pairs(words) ? Kind::WRITE : Kind::INVALID;
            return name("WAIT") && number() ? Kind::WAIT : Kind::INVALID;
        case 'R': return name("READ") && keys(words) ? Kind::READ : Kind::INVALID;
        case 'D': return name("DELETE") && keys(words) ? Kind::DELETE : Kind::INVALID;
        case 'S': return name("SHOW") ? Kind::SHOW : Kind::INVALID;
        case 'B': return name("BACKUP") ? Kind::BACKUP : Kind::INVALID;
        case 'H': return name("HELP") ? Kind::HELP : Kind::INVALID;
        case '#': {
            const void* newline = std::memchr(at_, '\n', std::size_t(end_ - at_));
            at_ = newline ? static_cast<const char*>(newline) : end_;
            return Kind::IDLE;
        }
        default: return Kind::IDLE;
        }
    }

    bool pairs(Words& words) {
        if (!symbol('[')) return false;
        do {
            Word key, value;
            if (!symbol('(') || !word(key) || !symbol(',')) return false;
            if (!word(value) || value.view() == MISSING_VALUE || value.view() == MISSING_KEY)
                return false;
            if (!symbol(')')) return false;
            words.keys.push_back({key, false, siphash13(key_, key.at, key.size), nullptr});
            words.values.push_back(value);
        } while (!symbol(']'));
        return true;
    }

    bool keys(Words& words) {
        if (!symbol('[')) return false;
        do {
            Word key;
            if (!word(key)) return false;
            words.keys.push_back({key, false, siphash13(key_, key.at, key.size), nullptr});
        } while (symbol(','));
        return symbol(']');
    }

    bool word(Word& word) {
        blanks();
        std::size_t size = 0;
        while (size <= WORD_BYTES && !ENDS_WORD[static_cast<unsigned char>(at_[size])]) ++size;
        word = {at_, std::uint8_t(size)};
        at_ += size;
        return size && size <= WORD_BYTES;
    }

    bool number() {
        blanks();
        milliseconds_ = 0;
        int digits = 0;
        for (; digits <= 10 && *at_ >= '0' && *at_ <= '9'; ++digits)
            milliseconds_ = 10 * milliseconds_ + std::uint64_t(*at_++ - '0');
        return digits && digits <= 10;
    }

    const HashKey key_;
    const char* const end_;
    const char* at_ = nullptr;
    std::uint64_t milliseconds_ = 0;
};

}  // namespace kvs

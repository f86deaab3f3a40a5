// The parser of general lines: every valid line but those that `LineParser` accepts. It parses
// quoted words, words of any size, several steps, conditions, expiries and the arguments of SHOW,
// COUNT and CLEAR. kvs/language/grammar.py defines what is valid.
//
// A sink receives the parts of a line; see `PartCheck`, the sink of a caller that only validates.
//
// Invariant: the byte after a line can be read and is in no word: it is of the line ending, or NUL.
// So bytes are compared one by one without comparing pointers with the end first.
#pragma once

#include <charconv>

#include "grammar.hpp"

namespace kvs {

constexpr std::size_t MAX_NUMBER_BYTES = 20;  // of a number of 64 bits with its sign

enum class StepKind : std::uint8_t { IF, WRITE, READ, DELETE, ADD };

enum class ExpiryForm : std::uint8_t { NONE, FOR, UNTIL };

// A word as a line has it.
struct Spelling {
    const char* at;    // the first byte, of a quoted word after its quote
    const char* end;   // of a quoted word before its quote
    std::size_t size;  // bytes of the word itself
    bool is_quoted;

    bool has_escapes() const { return size != std::size_t(end - at); }
    std::string_view view() const { return {at, std::size_t(end - at)}; }
    bool is_bare(std::string_view word) const { return !is_quoted && view() == word; }
};

inline int hex_digit(char byte) {
    if (byte >= '0' && byte <= '9') return byte - '0';
    const char lower = char(byte | 0x20);
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

// Return the byte that the escape after the backslash at `at` stands for, and move `at` behind the
// escape; return -1 if the escape is not valid.
inline int read_escape(const char*& at) {
    const char letter = at[1];
    at += 2;
    switch (letter) {
    case '"':
    case '\\': return letter;
    case 'n': return '\n';
    case 'r': return '\r';
    case 't': return '\t';
    case '0': return '\0';
    case 'x': {
        const int high = hex_digit(at[0]);
        const int low = high < 0 ? -1 : hex_digit(at[1]);
        at += 2;
        return low < 0 ? -1 : 16 * high + low;
    }
    default: return -1;
    }
}

// Return the first byte in [at, end) that may not stand in a quoted word as it is, or `end`.
inline const char* find_quoted_end(const char* at, const char* end) {
#ifdef KVS_SSE2
    for (; end - at >= std::ptrdiff_t(SIMD_WIDTH); at += SIMD_WIDTH) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
        const auto equals = [&](char byte) { return _mm_cmpeq_epi8(bytes, _mm_set1_epi8(byte)); };
        const __m128i any =
            _mm_or_si128(_mm_or_si128(equals('"'), equals('\\')),
                         _mm_or_si128(_mm_or_si128(equals('\0'), equals('\n')), equals('\r')));
        if (const unsigned mask = unsigned(_mm_movemask_epi8(any))) return at + __builtin_ctz(mask);
    }
#endif
    while (at != end && *at != '"' && *at != '\\' && *at != '\0' && *at != '\n' && *at != '\r')
        ++at;
    return at;
}

// Return the first byte in [at, end) that ends a plain word, or `end`.
inline const char* find_delimiter(const char* at, const char* end) {
#ifdef KVS_SSE2
    for (; end - at >= std::ptrdiff_t(SIMD_WIDTH); at += SIMD_WIDTH)
        for (unsigned mask = may_end_word(at); mask; mask &= mask - 1) {
            const char* const found = at + __builtin_ctz(mask);
            if (ENDS_WORD[static_cast<unsigned char>(*found)]) return found;
        }
#endif
    while (at != end && !ENDS_WORD[static_cast<unsigned char>(*at)]) ++at;
    return at;
}

// Write the `word.size` bytes of a word to `to`.
inline void unquote(const Spelling& word, char* to) {
    for (const char* at = word.at; at != word.end;) {
        const char* const escape = find_quoted_end(at, word.end);
        std::memcpy(to, at, std::size_t(escape - at));
        to += escape - at;
        at = escape;
        if (at != word.end) *to++ = char(read_escape(at));
    }
}

// Parse `0` or `-?[1-9][0-9]*` within 64 bits; return whether the text is such a number.
inline bool parse_number(std::string_view text, std::int64_t& number) {
    if (text.empty() || text.size() > MAX_NUMBER_BYTES) return false;
    const std::string_view digits = text.substr(text[0] == '-');
    if (digits.empty() || digits[0] < '0' || digits[0] > '9') return false;
    if (digits[0] == '0' && text.size() != 1) return false;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    return error == std::errc() && end == text.data() + text.size();
}

template <typename Sink>
class GeneralParser {
public:
    // Parse the line in [at, end), which is without its line ending.
    GeneralParser(const char* at, const char* end, Sink& sink) : at_(at), end_(end), sink_(sink) {}

    // Return whether the line is valid, or at least not one for `LineParser`. Throws what the sink
    // throws.
    bool parse_line() {
        skip_blanks();
        if (!parse_command()) return false;
        skip_blanks();
        return at_ == end_;
    }

    // Parse the line, which goes on after `end`; return whether the parser found nothing invalid up
    // to there. May return false for such a line, too.
    bool parse_beginning() {
        skip_blanks();
        return !parse_command() && at_ >= end_;
    }

private:
    // Each of these functions moves past one part of the line, and returns false if it is not
    // there.

    bool parse_command() {
        switch (*at_) {
        case 'S': return take_text("SHOW") && parse_listing();
        case 'C':
            if (take_text("CLEAR")) return sink_.begin(Kind::CLEAR), parse_prefixes();
            if (!take_text("COUNT")) return false;
            sink_.begin(Kind::COUNT);
            return next_is('[') ? parse_prefixes() : true;
        case 'E': sink_.begin(Kind::EXPIRE); return take_text("EXPIRE") && parse_milliseconds();
        default: sink_.begin(Kind::STEPS); return parse_steps();
        }
    }

    bool parse_steps() {
        if (take_text("IF") && !parse_pairs(StepKind::IF)) return false;
        do {
            skip_blanks();
            if (!parse_step()) return false;
            skip_blanks();
        } while (at_ != end_);
        return true;
    }

    bool parse_step() {
        switch (*at_) {
        case 'W': return take_text("WRITE") && parse_pairs(StepKind::WRITE) && parse_expiry();
        case 'A': return take_text("ADD") && parse_pairs(StepKind::ADD) && parse_expiry();
        case 'R': return take_text("READ") && parse_keys(StepKind::READ);
        case 'D': return take_text("DELETE") && parse_keys(StepKind::DELETE);
        default: return false;
        }
    }

    bool parse_expiry() {
        skip_blanks();
        const ExpiryForm form = take_text("FOR")     ? ExpiryForm::FOR
                                : take_text("UNTIL") ? ExpiryForm::UNTIL
                                                     : ExpiryForm::NONE;
        if (form == ExpiryForm::NONE) {
            sink_.end_step(form, 0);
            return true;
        }
        std::uint64_t ms = 0;
        if (!parse_digits(ms) || (form == ExpiryForm::FOR && !ms)) return false;
        sink_.end_step(form, ms);
        return true;
    }

    bool parse_pairs(StepKind kind) {
        if (!take('[')) return false;
        sink_.begin_step(kind);
        do {
            Spelling key, value;
            if (!take('(') || !parse_key(key) || !take(',') || !parse_word(value)) return false;
            if (!add_pair(kind, key, value) || !take(')')) return false;
        } while (!take(']'));
        if (kind == StepKind::IF) sink_.end_step(ExpiryForm::NONE, 0);
        return true;
    }

    bool add_pair(StepKind kind, const Spelling& key, const Spelling& value) {
        if (kind == StepKind::ADD) {
            std::int64_t number;
            if (!parse_addend(value, number)) return refuse(value);
            sink_.add_number(key, number);
            return true;
        }
        if (value.size > MAX_VALUE_BYTES) return refuse(value);
        if (value.is_bare(MISSING_KEY)) return false;
        if (!value.is_bare(MISSING_VALUE)) {
            sink_.add_pair(key, value);
        } else if (kind == StepKind::IF) {
            sink_.add_missing(key);
        } else {
            return false;
        }
        return true;
    }

    static bool parse_addend(const Spelling& word, std::int64_t& number) {
        char text[MAX_NUMBER_BYTES];
        if (word.size > MAX_NUMBER_BYTES) return false;
        if (!word.has_escapes()) return parse_number(word.view(), number);
        unquote(word, text);
        return parse_number({text, word.size}, number);
    }

    bool parse_keys(StepKind kind) {
        if (!take('[')) return false;
        sink_.begin_step(kind);
        do {
            Spelling key;
            if (!parse_key(key)) return false;
            sink_.add_key(key);
        } while (take(','));
        sink_.end_step(ExpiryForm::NONE, 0);
        return take(']');
    }

    bool parse_listing() {
        sink_.begin(Kind::SHOW);
        if (next_is('[') && !parse_prefixes()) return false;
        skip_blanks();
        if (take_text("AFTER")) {
            Spelling word;
            if (!take('[') || !parse_prefix(word) || !take(']')) return false;
            sink_.set_after(word);
            skip_blanks();
        }
        std::uint64_t limit;
        if (take_text("LIMIT")) {
            if (!parse_digits(limit)) return false;
            sink_.set_limit(limit);
            skip_blanks();
        }
        if (take_text("UNTIL")) sink_.set_expiries();
        return true;
    }

    bool parse_prefixes() {
        if (!take('[')) return false;
        do {
            Spelling word;
            if (!parse_prefix(word)) return false;
            sink_.add_prefix(word);
        } while (take(','));
        return take(']');
    }

    bool parse_milliseconds() {
        std::uint64_t ms;
        if (!parse_digits(ms)) return false;
        sink_.set_milliseconds(ms);
        return true;
    }

    bool parse_digits(std::uint64_t& number) {
        skip_blanks();
        number = 0;
        int digits = 0;
        for (; digits <= MAX_DIGITS && *at_ >= '0' && *at_ <= '9'; ++digits)
            number = 10 * number + std::uint64_t(*at_++ - '0');
        return digits && digits <= MAX_DIGITS;
    }

    bool parse_key(Spelling& word) { return parse_prefix(word) && word.size; }
    bool parse_prefix(Spelling& word) {
        return parse_word(word) && (word.size <= MAX_KEY_BYTES || refuse(word));
    }

    // Move back to a word that is not valid here, whatever follows.
    bool refuse(const Spelling& word) {
        at_ = word.at;
        return false;
    }

    bool parse_word(Spelling& word) {
        skip_blanks();
        if (*at_ == '"') return parse_quoted(word);
        word.at = at_;
        word.end = at_ = find_delimiter(at_, end_);
        word.size = std::size_t(word.end - word.at);
        word.is_quoted = false;
        return word.size;
    }

    bool parse_quoted(Spelling& word) {
        word.at = ++at_;
        word.is_quoted = true;
        std::size_t escape_bytes = 0, escapes = 0;
        while (*(at_ = find_quoted_end(at_, end_)) == '\\') {
            const char* const escape = at_;
            if (read_escape(at_) < 0) return false;
            escape_bytes += std::size_t(at_ - escape);
            ++escapes;
        }
        word.end = at_;
        word.size = std::size_t(at_ - word.at) - escape_bytes + escapes;
        return *at_++ == '"';
    }

    bool take(char byte) {
        if (*at_ != byte) skip_blanks();
        if (*at_ != byte) return false;
        ++at_;
        return true;
    }

    bool next_is(char byte) {
        skip_blanks();
        return *at_ == byte;
    }

    template <std::size_t N>
    bool take_text(const char (&text)[N]) {
        for (std::size_t i = 0; i < N - 1; ++i)
            if (at_[i] != text[i]) return false;
        at_ += N - 1;
        return true;
    }

    void skip_blanks() {
        while (*at_ == ' ' || *at_ == '\t') ++at_;
    }

    static constexpr int MAX_DIGITS = 15;

    const char* at_;
    const char* const end_;
    Sink& sink_;
};

// A sink that does nothing, for a parser that only validates.
struct PartCheck {
    void begin(Kind) {}
    void begin_step(StepKind) {}
    void end_step(ExpiryForm, std::uint64_t) {}
    void add_key(const Spelling&) {}
    void add_pair(const Spelling&, const Spelling&) {}
    void add_missing(const Spelling&) {}
    void add_number(const Spelling&, std::int64_t) {}
    void add_prefix(const Spelling&) {}
    void set_after(const Spelling&) {}
    void set_limit(std::uint64_t) {}
    void set_expiries() {}
    void set_milliseconds(std::uint64_t) {}
};

// Return whether the line in [at, end), which is without its line ending and which `LineParser`
// refuses, is valid.
inline bool is_valid_general_line(const char* at, const char* end) {
    PartCheck check;
    return GeneralParser<PartCheck>(at, end, check).parse_line();
}

// Return whether a line that goes on after `end` may be valid; false if that is not known.
inline bool is_unfinished_line(const char* at, const char* end) {
    PartCheck check;
    return GeneralParser<PartCheck>(at, end, check).parse_beginning();
}

}  // namespace kvs

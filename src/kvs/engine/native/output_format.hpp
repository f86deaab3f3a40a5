// The form of output, to the byte that of kvs/language/output_format.py, and the canonical spelling
// of words, that of `spell` and `spell_value` in kvs/language/grammar.py. The callers have reserved
// the space.
//
// A word is spelled as its bytes if it can be written plain, else in quotes with escapes. To look
// at 16 MiB for that takes milliseconds, so it is done once, when a word is read, and kept as
// `is_plain` beside the word; of a large value, the bytes of the spelling are kept too.
#pragma once

#include <algorithm>
#include <array>

#include "buffer.hpp"
#include "scan.hpp"
#include "words.hpp"

namespace kvs {

// The bytes of a pair whose words have `word_bytes` bytes as they are spelled.
constexpr std::size_t pair_bytes(std::size_t word_bytes) { return word_bytes + 3; }
constexpr std::size_t MAX_PAIR_BYTES = pair_bytes(2 * WORD_BYTES);
constexpr std::size_t LINE_BYTES = 3;  // of "[" and "]\n" around the pairs of a line

// Return whether a key or a prefix can be written plain.
inline bool is_plain_word(std::string_view word) {
    if (word.empty() || word[0] == '"') return false;
    return std::none_of(word.begin(), word.end(),
                        [](char byte) { return ENDS_WORD[static_cast<unsigned char>(byte)]; });
}

inline bool is_plain_value(std::string_view value) {
    return is_plain_word(value) && value != MISSING_VALUE && value != MISSING_KEY;
}

// The byte behind the backslash of an escape, or 0 for a byte that stands in quotes as it is.
constexpr std::array<char, 256> escape_letters() {
    std::array<char, 256> letters{};
    letters['"'] = '"';
    letters['\\'] = '\\';
    letters['\n'] = 'n';
    letters['\r'] = 'r';
    letters['\0'] = '0';
    return letters;
}

constexpr std::array<char, 256> ESCAPE_LETTERS = escape_letters();

inline char escape_letter(char byte) { return ESCAPE_LETTERS[static_cast<unsigned char>(byte)]; }

// Return how many of the next `ESCAPE_BLOCK` bytes need an escape: 16 bytes are compared at a time.
constexpr std::size_t ESCAPE_BLOCK = 64;

inline std::size_t count_escapes(const char* at) {
    typedef signed char Bytes __attribute__((vector_size(16)));
    typedef std::uint64_t Halves __attribute__((vector_size(16)));
    Bytes found{};
    for (std::size_t i = 0; i < ESCAPE_BLOCK; i += sizeof found) {
        Bytes bytes;
        std::memcpy(&bytes, at + i, sizeof bytes);
        found +=
            (bytes == '"') | (bytes == '\\') | (bytes == '\n') | (bytes == '\r') | (bytes == 0);
    }
    const Halves halves = (Halves)found;
    if (!(halves[0] | halves[1])) return 0;
    std::size_t count = 0;
    for (std::size_t i = 0; i < sizeof found; ++i) count += std::size_t(-found[i]);
    return count;
}

// The maximum bytes of the canonical spelling of a word of `size` bytes.
constexpr std::size_t max_spelled_size(std::size_t size, bool is_plain) {
    return is_plain ? size : 2 * size + 2;
}

// Return the bytes of the canonical spelling of a word. Cost: it reads a word that is not plain.
inline std::size_t spelled_size(std::string_view word, bool is_plain) {
    if (is_plain) return word.size();
    std::size_t escapes = 0, i = 0;
    for (; i + ESCAPE_BLOCK <= word.size(); i += ESCAPE_BLOCK)
        escapes += count_escapes(word.data() + i);
    for (; i < word.size(); ++i) escapes += escape_letter(word[i]) != 0;
    return word.size() + 2 + escapes;
}

inline void append_spelled(Buffer& out, std::string_view word, bool is_plain) {
    if (is_plain) return out.append(word);
    out.append('"');
    std::size_t done = 0;
    for (std::size_t end, i = 0; i < word.size(); i = end) {
        end = std::min(i + ESCAPE_BLOCK, word.size());
        if (end - i == ESCAPE_BLOCK && !count_escapes(word.data() + i)) continue;
        for (; i < end; ++i) {
            const char letter = escape_letter(word[i]);
            if (!letter) continue;
            out.append(word.substr(done, i - done));
            out.append('\\');
            out.append(letter);
            done = i + 1;
        }
    }
    out.append(word.substr(done));
    out.append('"');
}

// Of a pair of plain words of at most 40 bytes.
inline void append_pair(Buffer& out, std::string_view key, std::string_view value) {
    out.append('(');
    out.append_word(key);
    out.append(',');
    out.append_word(value);
    out.append(')');
}

// The maximum bytes of a line of SHOW or of a backup that consists of such words.
constexpr std::size_t MAX_LISTING_LINE_BYTES = 2 * WORD_BYTES + 5;

inline void append_listing_line(Buffer& out, std::string_view key, std::string_view value) {
    out.append('(');
    out.append_word(key);
    out.append(", ");
    out.append_word(value);
    out.append(")\n");
}

// The words of UNTIL, without blanks: at most 22 bytes.
constexpr std::size_t MAX_UNTIL_BYTES = 32;

inline void append_until(Buffer& out, std::uint64_t until) {
    char digits[20];
    std::size_t count = 0;
    do digits[count++] = char('0' + until % 10);
    while (until /= 10);
    out.append("UNTIL ");
    while (count) out.append(digits[--count]);
}

}  // namespace kvs

// How results are written, to the byte, as kvs/language/output_format.py does. Room has been made.
#pragma once

#include "buffer.hpp"
#include "words.hpp"

namespace kvs {

constexpr std::size_t pair_bytes(std::size_t word_bytes) { return word_bytes + 3; }
constexpr std::size_t MAX_PAIR_BYTES = pair_bytes(2 * WORD_BYTES);
constexpr std::size_t LINE_BYTES = 3;  // around the pairs of a line

inline void append_pair(Buffer& out, std::string_view key, std::string_view value) {
    out.append('(');
    out.append_word(key);
    out.append(',');
    out.append_word(value);
    out.append(')');
}

// A line of SHOW and of a backup.
constexpr std::size_t MAX_LISTING_LINE_BYTES = 2 * WORD_BYTES + 5;

inline void append_listing_line(Buffer& out, std::string_view key, std::string_view value) {
    out.append('(');
    out.append_word(key);
    out.append(", ");
    out.append_word(value);
    out.append(")\n");
}

}  // namespace kvs

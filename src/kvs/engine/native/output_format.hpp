// How results are written, to the byte, as kvs/language/output_format.py does. Room has been made.
#pragma once

#include "buffer.hpp"
#include "words.hpp"

namespace kvs {

constexpr std::size_t pair_bytes(std::size_t words) { return words + 3; }
constexpr std::size_t MOST_PAIR_BYTES = pair_bytes(2 * WORD_BYTES);
constexpr std::size_t LINE_BYTES = 3;  // around the pairs of a line

inline void put_pair(Buffer& out, std::string_view key, std::string_view value) {
    out.put('(');
    out.put_word(key);
    out.put(',');
    out.put_word(value);
    out.put(')');
}

// A line of SHOW and of a backup.
constexpr std::size_t MOST_SHOWN_BYTES = 2 * WORD_BYTES + 5;

inline void put_shown(Buffer& out, std::string_view key, std::string_view value) {
    out.put('(');
    out.put_word(key);
    out.put(", ");
    out.put_word(value);
    out.put(")\n");
}

}  // namespace kvs

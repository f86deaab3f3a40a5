// The form of output, to the byte that of kvs/language/output_format.py. The callers have reserved
// the space.
#pragma once

#include "buffer.hpp"
#include "words.hpp"

namespace kvs {

// The bytes of a pair whose words have `word_bytes` bytes.
constexpr std::size_t pair_bytes(std::size_t word_bytes) { return word_bytes + 3; }
constexpr std::size_t MAX_PAIR_BYTES = pair_bytes(2 * WORD_BYTES);
constexpr std::size_t LINE_BYTES = 3;  // of "[" and "]\n" around the pairs of a line

inline void append_pair(Buffer& out, std::string_view key, std::string_view value) {
    out.append('(');
    out.append_word(key);
    out.append(',');
    out.append_word(value);
    out.append(')');
}

// The maximum bytes of a line of SHOW or of a backup.
constexpr std::size_t MAX_LISTING_LINE_BYTES = 2 * WORD_BYTES + 5;

inline void append_listing_line(Buffer& out, std::string_view key, std::string_view value) {
    out.append('(');
    out.append_word(key);
    out.append(", ");
    out.append_word(value);
    out.append(")\n");
}

}  // namespace kvs

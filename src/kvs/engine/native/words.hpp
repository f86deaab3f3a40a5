// Words as they stand in a script or in a record, and as commands carry them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace kvs {

constexpr std::size_t WORD_BYTES = 40;
constexpr std::string_view MISSING_VALUE = "KVSERROR";
constexpr std::string_view MISSING_KEY = "KVSMISSING";

// Bytes that stay where they are as long as the script does.
struct Word {
    const char* at;
    std::uint8_t size;

    std::string_view view() const { return {at, size}; }
};

struct Key : Word {
    bool missing;  // what a DELETE found
    std::uint64_t hash;
};

// A value as it was at one instant.
struct Value {
    char bytes[WORD_BYTES];
    std::uint8_t size;
};

// The order of the language is that of the bytes.
inline bool operator<(const Word& one, const Word& other) { return one.view() < other.view(); }

}  // namespace kvs

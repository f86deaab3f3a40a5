// Words, as they are in a script or a record, and as commands refer to them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

// The compiler would inline less of the path of short commands with each further caller of its
// functions and with each rare case in them, which is a tenth of the time of a command. So the
// functions of the path are inlined always, and those of the rare cases never.
#define ALWAYS_INLINE __attribute__((always_inline)) inline
#define COLD __attribute__((noinline, cold))

namespace kvs {

constexpr std::size_t WORD_BYTES = 40;  // maximum bytes of a word of a short record
constexpr std::size_t MAX_KEY_BYTES = 1024;
constexpr std::size_t MAX_VALUE_BYTES = std::size_t(1) << 24;
constexpr std::string_view MISSING_VALUE = "KVSERROR";
constexpr std::string_view MISSING_KEY = "KVSMISSING";

// Copies and comparisons of at most 40 bytes. A call of memcpy(3) or memcmp(3) with a variable size
// takes longer than the work itself. These use loads and stores of a constant size, of which the
// last two may overlap: 11 bytes are the 8 first and the 8 last. No byte beyond the word is
// touched.

template <std::size_t N>
void copy_fixed(char* to, const char* from) {
    std::memcpy(to, from, N);
}

ALWAYS_INLINE void copy_word(char* to, const char* from, std::size_t size) {
    if (size > WORD_BYTES) __builtin_unreachable();
    if (size >= 16) {
        for (std::size_t i = 0; i + 16 < size; i += 16) copy_fixed<16>(to + i, from + i);
        copy_fixed<16>(to + size - 16, from + size - 16);
    } else if (size >= 8) {
        copy_fixed<8>(to, from);
        copy_fixed<8>(to + size - 8, from + size - 8);
    } else if (size >= 4) {
        copy_fixed<4>(to, from);
        copy_fixed<4>(to + size - 4, from + size - 4);
    } else {
        for (std::size_t i = 0; i < size; ++i) to[i] = from[i];
    }
}

template <typename T>
T load_unaligned(const char* at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

ALWAYS_INLINE bool equal_bytes(const char* left, const char* right, std::size_t size) {
    if (size > WORD_BYTES) __builtin_unreachable();
    using Long = std::uint64_t;
    using Short = std::uint32_t;
    if (size >= 8) {
        for (std::size_t i = 0; i + 8 < size; i += 8)
            if (load_unaligned<Long>(left + i) != load_unaligned<Long>(right + i)) return false;
        return load_unaligned<Long>(left + size - 8) == load_unaligned<Long>(right + size - 8);
    }
    if (size >= 4)
        return load_unaligned<Short>(left) == load_unaligned<Short>(right) &&
               load_unaligned<Short>(left + size - 4) == load_unaligned<Short>(right + size - 4);
    for (std::size_t i = 0; i < size; ++i)
        if (left[i] != right[i]) return false;
    return true;
}

// A view of the bytes of a word, unquoted, in a script or a record, which must outlive it.
struct Word {
    const char* at;
    std::uint32_t size;

    std::string_view view() const { return {at, size}; }
};

struct Key : Word {
    bool missing;   // set by a DELETE
    bool is_plain;  // its canonical spelling is its bytes
    std::uint64_t hash;
    std::uint64_t sort_prefix;  // the first 8 bytes, as a big-endian number
    // The slot where the key was seen before the lock was taken, or null; see segment.hpp.
    std::uint64_t* slot_hint;
};

// A copy of a value.
struct Value {
    void set(std::string_view word) {
        std::memcpy(bytes, word.data(), word.size());
        size = std::uint8_t(word.size());
    }

    char bytes[WORD_BYTES];
    std::uint8_t size;
};

// The order of keys is that of their bytes. The prefix of a word of fewer than 8 bytes is filled
// with zeros, so it is not above that of a longer word that begins with it, but may be equal to it.
inline bool operator<(const Key& left, const Key& right) {
    return left.sort_prefix != right.sort_prefix ? left.sort_prefix < right.sort_prefix
                                                 : left.view() < right.view();
}

// Sort keys.
//
// Rank sort of up to 8 keys: the rank of a key is the number of keys below it. Every pair of keys
// is compared once, and the comparison is added to the ranks as a number, so there is no branch for
// the processor to mispredict: 28 comparisons of 8 keys take less time than the mispredictions of
// std::sort. The ranks are a permutation even among equal prefixes, because of two equal ones the
// later gets the higher rank. Limit: only the prefixes are compared; if two of them are equal, the
// result is sorted once more by whole words.
ALWAYS_INLINE void sort_keys(Key* keys, std::size_t count) {
    constexpr std::size_t MAX_RANKED = 8;
    if (count > MAX_RANKED) {
        std::sort(keys, keys + count);
        return;
    }
    Key keys_before[MAX_RANKED];
    std::size_t ranks[MAX_RANKED];
    bool has_ties = false;
    for (std::size_t i = 0; i < count; ++i) {
        keys_before[i] = keys[i];
        ranks[i] = i;
        for (std::size_t j = 0; j < i; ++j) {
            const bool less = keys_before[i].sort_prefix < keys_before[j].sort_prefix;
            has_ties |= keys_before[i].sort_prefix == keys_before[j].sort_prefix;
            ranks[i] -= less;
            ranks[j] += less;
        }
    }
    for (std::size_t i = 0; i < count; ++i) keys[ranks[i]] = keys_before[i];
    if (has_ties) std::sort(keys, keys + count);
}

}  // namespace kvs

// Words as they stand in a script or in a record, and as commands carry them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace kvs {

constexpr std::size_t WORD_BYTES = 40;
constexpr std::string_view MISSING_VALUE = "KVSERROR";
constexpr std::string_view MISSING_KEY = "KVSMISSING";

// For so few bytes a call of memcpy or memcmp takes longer than the work. Pieces of a fixed size,
// which may overlap, cover any size; nothing beyond it is touched.

template <std::size_t N>
void copy_piece(char* to, const char* from) {
    std::memcpy(to, from, N);
}

inline void copy_word(char* to, const char* from, std::size_t size) {
    if (size >= 16) {
        for (std::size_t i = 0; i + 16 < size; i += 16) copy_piece<16>(to + i, from + i);
        copy_piece<16>(to + size - 16, from + size - 16);
    } else if (size >= 8) {
        copy_piece<8>(to, from);
        copy_piece<8>(to + size - 8, from + size - 8);
    } else if (size >= 4) {
        copy_piece<4>(to, from);
        copy_piece<4>(to + size - 4, from + size - 4);
    } else {
        for (std::size_t i = 0; i < size; ++i) to[i] = from[i];
    }
}

template <typename T>
T piece(const char* at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

inline bool same_word(const char* one, const char* other, std::size_t size) {
    using Long = std::uint64_t;
    using Short = std::uint32_t;
    if (size >= 8) {
        for (std::size_t i = 0; i + 8 < size; i += 8)
            if (piece<Long>(one + i) != piece<Long>(other + i)) return false;
        return piece<Long>(one + size - 8) == piece<Long>(other + size - 8);
    }
    if (size >= 4)
        return piece<Short>(one) == piece<Short>(other) &&
               piece<Short>(one + size - 4) == piece<Short>(other + size - 4);
    for (std::size_t i = 0; i < size; ++i)
        if (one[i] != other[i]) return false;
    return true;
}

// Bytes that stay where they are as long as the script does.
struct Word {
    const char* at;
    std::uint8_t size;

    std::string_view view() const { return {at, size}; }
};

struct Key : Word {
    bool missing;  // what a DELETE found
    std::uint64_t hash;
    std::uint64_t order;  // its first 8 bytes, as a number that is in the order of words
    // Where in the table it was seen before the lock was taken; null if it was not. A hint: what
    // is there must be looked at again.
    std::uint64_t* seen;
};

// A value as it was at one instant.
struct Value {
    void set(std::string_view word) {
        std::memcpy(bytes, word.data(), word.size());
        size = std::uint8_t(word.size());
    }

    char bytes[WORD_BYTES];
    std::uint8_t size;
};

// The order of the language is that of the bytes. No word has a NUL: where one ends, its number has
// less than any that goes on.
inline bool operator<(const Key& one, const Key& other) {
    return one.order != other.order ? one.order < other.order : one.view() < other.view();
}

// Sort keys. A few are counted, each against each: they are in their places sooner than a search
// could guess right where they belong.
inline void sort_keys(Key* keys, std::size_t count) {
    constexpr std::size_t FEW = 8;
    if (count > FEW) {
        std::sort(keys, keys + count);
        return;
    }
    Key before[FEW];
    std::size_t places[FEW];
    bool alike = false;
    for (std::size_t i = 0; i < count; ++i) {
        before[i] = keys[i];
        places[i] = i;
        for (std::size_t j = 0; j < i; ++j) {
            const bool less = before[i].order < before[j].order;
            alike |= before[i].order == before[j].order;
            places[i] -= less;
            places[j] += less;
        }
    }
    for (std::size_t i = 0; i < count; ++i) keys[places[i]] = before[i];
    if (alike) std::sort(keys, keys + count);
}

}  // namespace kvs

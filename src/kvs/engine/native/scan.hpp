// The search for the end of a word: 16 bytes at a time with SSE2, else byte by byte.
//
// Invariant: a function that takes `end` may read up to the byte at `end`, which is NUL.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

// Tests define KVS_PORTABLE to run the code of machines without SSE2.
#if defined(__SSE2__) && !defined(KVS_PORTABLE)
#define KVS_SSE2
#include <emmintrin.h>
#endif

#include "words.hpp"

namespace kvs {

// Which bytes end a word.
constexpr std::array<bool, 256> ends_word() {
    std::array<bool, 256> ends{};
    for (const char byte : {'\0', '\n', '\r', ' ', '\t', ',', ')', ']'})
        ends[static_cast<unsigned char>(byte)] = true;
    return ends;
}

constexpr std::array<bool, 256> ENDS_WORD = ends_word();

#ifdef KVS_SSE2

constexpr std::size_t SIMD_WIDTH = 16;  // bytes of a vector register

// Return a bit for each of 16 bytes that may end a word: the bytes that do, and all control
// characters. One comparison finds the blanks, the line ends and NUL, as the bytes up to ' '; it
// also finds control characters, which are legal in a word.
inline unsigned may_end_word(const char* at) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
    const __m128i low = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(' ')), bytes);
    const __m128i comma = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(','));
    const __m128i round = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(')'));
    const __m128i square = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(']'));
    const __m128i any = _mm_or_si128(_mm_or_si128(low, comma), _mm_or_si128(round, square));
    return unsigned(_mm_movemask_epi8(any));
}

// Finds the bytes that may end a word, one after the other, 64 bytes at a time.
class DelimiterScanner {
public:
    DelimiterScanner(const char* at, const char* end) : block_(at), end_(end) { fill(); }

    // Return the next such byte, if it is at most the size of a word after `from`. Return null if
    // it is not, or if fewer than 64 bytes are left, which are not scanned.
    const char* next(const char* from) {
        while (!mask_) {
            block_ += BLOCK_BYTES;
            if (block_ - from > std::ptrdiff_t(WORD_BYTES) || !fill()) return nullptr;
        }
        const char* const delimiter = block_ + __builtin_ctzll(mask_);
        mask_ &= mask_ - 1;
        return delimiter;
    }

private:
    static constexpr std::ptrdiff_t BLOCK_BYTES = 4 * SIMD_WIDTH;

    bool fill() {
        if (end_ - block_ < BLOCK_BYTES - 1) return false;
        for (std::size_t i = 0; i < 4; ++i)
            mask_ |= std::uint64_t(may_end_word(block_ + i * SIMD_WIDTH)) << (i * SIMD_WIDTH);
        return true;
    }

    const char* block_;
    const char* const end_;
    std::uint64_t mask_ = 0;
};

#endif

// Return the size of the word that begins at `at`; any number above 40 means that it is too long.
inline std::size_t word_size(const char* at, [[maybe_unused]] const char* end) {
    std::size_t size = 0;
#ifdef KVS_SSE2
    while (size <= WORD_BYTES && std::size_t(end - at) >= size + SIMD_WIDTH - 1) {
        const unsigned ends = may_end_word(at + size);
        if (!ends) {
            size += SIMD_WIDTH;
            continue;
        }
        size += std::size_t(__builtin_ctz(ends));
        if (ENDS_WORD[static_cast<unsigned char>(at[size])]) return size;
        break;  // a control character, which is legal in a word
    }
#endif
    while (size <= WORD_BYTES && !ENDS_WORD[static_cast<unsigned char>(at[size])]) ++size;
    return size;
}

}  // namespace kvs

// Where a word ends: many bytes looked at together, where the processor can.
//
// Law: what is called with `end` may read up to the byte at `end`, which is NUL.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

// KVS_PORTABLE leaves out what only some machines have, for tests of what the others get.
#if defined(__SSE2__) && !defined(KVS_PORTABLE)
#define KVS_SSE2
#include <emmintrin.h>
#endif

#include "words.hpp"

namespace kvs {

constexpr std::array<bool, 256> ends_word() {
    std::array<bool, 256> ends{};
    for (const char byte : {'\0', '\n', '\r', ' ', '\t', ',', ')', ']'})
        ends[static_cast<unsigned char>(byte)] = true;
    return ends;
}

constexpr std::array<bool, 256> ENDS_WORD = ends_word();

#ifdef KVS_SSE2

constexpr std::size_t SIMD_WIDTH = 16;

// A bit for each of the bytes that may end a word: those that do, and control characters.
inline unsigned may_end_word(const char* at) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
    const __m128i low = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(' ')), bytes);
    const __m128i comma = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(','));
    const __m128i round = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(')'));
    const __m128i square = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(']'));
    const __m128i any = _mm_or_si128(_mm_or_si128(low, comma), _mm_or_si128(round, square));
    return unsigned(_mm_movemask_epi8(any));
}

// The bytes that may end a word, one after the other, found for 64 bytes at a time.
class DelimiterScanner {
public:
    DelimiterScanner(const char* at, const char* end) : block_(at), end_(end) { fill(); }

    // Return the next of them that is not further than a word from `from`; null if there is none
    // or what is left is too short to be looked at so.
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

// Bytes of the word that begins at `at`, up to one more than a word may have.
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
        break;  // a control character, which a word may have
    }
#endif
    while (size <= WORD_BYTES && !ENDS_WORD[static_cast<unsigned char>(at[size])]) ++size;
    return size;
}

}  // namespace kvs

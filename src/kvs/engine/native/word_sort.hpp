// Sorts the words of a long line by their bytes, given as offsets of 4 bytes each, in place.
//
// Multikey quicksort (Bentley and Sedgewick, 1997) with 8 bytes of a word as one digit: equal words
// need one pass, however many they are. A part of few words is copied with its digits, which stay
// in the cache, and sorted there. The pivot is drawn at random, so a client can choose no order of
// words that takes quadratic time.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstdint>
#include <string_view>

#include "grammar.hpp"

namespace kvs {

class WordSort {
public:
    // The offsets count from `text`. `parser` must outlive the sort.
    WordSort(const char* text, const LineParser& parser)
        : text_(text), end_(parser.end()), hasher_(parser.hasher()) {}

    void sort(std::uint32_t* offsets, std::size_t count) {
        if (count < 2) return;
        Key key;
        hasher_.make_key(key, text_ + offsets[0], word_size(text_ + offsets[0], end_));
        random_ = key.hash | 1;
        sort({offsets, offsets + count, 0});
        assert(std::is_sorted(offsets, offsets + count, [this](auto left, auto right) {
            return rest(left, 0) < rest(right, 0);
        }));
    }

private:
    static constexpr std::ptrdiff_t MAX_COPIED = 512;  // words that are sorted in a copy
    static constexpr std::size_t DIGIT_BYTES = 8;
    static constexpr std::ptrdiff_t PREFETCH_DISTANCE = 16;  // words

    // Words that agree in their first `depth` bytes.
    struct Part {
        std::uint32_t* begin;
        std::uint32_t* end;
        std::size_t depth;

        std::ptrdiff_t size() const { return end - begin; }
    };

    struct Entry {
        std::uint64_t digit;
        std::uint32_t offset;
    };

    // Return the 8 bytes of a word from `depth` on, as a big-endian number.
    std::uint64_t digit(std::uint32_t offset, std::size_t depth) const {
        const char* const at = text_ + offset + depth;
        const std::size_t size = std::min(word_size(at, end_), DIGIT_BYTES);
        return sip::big_endian(hasher_.first_block(at, size));
    }

    // Return whether a word has bytes after this digit: no word has a NUL.
    static bool continues_after(std::uint64_t digit) { return digit & 0xff; }

    void sort(Part part) {
        while (part.size() > MAX_COPIED) {
            Part parts[3];
            split(part, parts);
            // Iterate on the largest part, so that the recursion stays shallow.
            std::sort(parts, parts + 3, [](const Part& left, const Part& right) {
                return left.size() < right.size();
            });
            sort(parts[0]);
            sort(parts[1]);
            part = parts[2];
        }
        sort_copied(part);
    }

    // Split a part by the digit of a random word: below it, above it, equal to it.
    void split(const Part& part, Part* parts) {
        const std::size_t pivot_index = next_random() % std::size_t(part.size());
        const std::uint64_t pivot = digit(part.begin[pivot_index], part.depth);
        std::uint32_t *below = part.begin, *above = part.end, *at = part.begin;
        while (at < above) {
            if (above - at > PREFETCH_DISTANCE) {
                __builtin_prefetch(text_ + at[PREFETCH_DISTANCE] + part.depth);
                __builtin_prefetch(text_ + above[-PREFETCH_DISTANCE] + part.depth);
            }
            const std::uint64_t here = digit(*at, part.depth);
            if (here < pivot)
                std::swap(*below++, *at++);
            else if (here > pivot)
                std::swap(*at, *--above);
            else
                ++at;
        }
        parts[0] = {part.begin, below, part.depth};
        parts[1] = {above, part.end, part.depth};
        parts[2] = {below, continues_after(pivot) ? above : below, part.depth + DIGIT_BYTES};
    }

    void sort_copied(const Part& part) {
        if (part.size() < 2) return;
        Entry entries[MAX_COPIED];
        Entry* end = entries;
        for (const std::uint32_t* at = part.begin; at != part.end; ++at)
            __builtin_prefetch(text_ + *at + part.depth);
        for (const std::uint32_t* at = part.begin; at != part.end; ++at)
            *end++ = {digit(*at, part.depth), *at};
        std::sort(entries, end, [&](const Entry& left, const Entry& right) {
            if (left.digit != right.digit) return left.digit < right.digit;
            if (!continues_after(left.digit)) return false;
            const std::size_t depth = part.depth + DIGIT_BYTES;
            return rest(left.offset, depth) < rest(right.offset, depth);
        });
        for (std::uint32_t* at = part.begin; at != part.end; ++at)
            *at = entries[at - part.begin].offset;
    }

    std::string_view rest(std::uint32_t offset, std::size_t depth) const {
        const char* const at = text_ + offset + depth;
        return {at, word_size(at, end_)};
    }

    std::uint64_t next_random() {  // xorshift (Marsaglia, 2003)
        random_ ^= random_ << 13;
        random_ ^= random_ >> 7;
        return random_ ^= random_ << 17;
    }

    const char* const text_;
    const char* const end_;
    const KeyHasher& hasher_;
    std::uint64_t random_ = 1;
};

}  // namespace kvs

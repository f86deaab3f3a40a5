// SipHash-1-3 (Aumasson and Bernstein, 2012; the rounds that CPython and Rust use): a hash of bytes
// under a secret key. A client that does not know the key cannot choose words that collide.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace kvs {

struct HashKey {
    std::uint64_t first = 0;
    std::uint64_t second = 0;
};

namespace sip {

struct State {
    explicit State(HashKey key)
        : v0(key.first ^ 0x736f6d6570736575),
          v1(key.second ^ 0x646f72616e646f6d),
          v2(key.first ^ 0x6c7967656e657261),
          v3(key.second ^ 0x7465646279746573) {}

    std::uint64_t v0, v1, v2, v3;

    static std::uint64_t rotated(std::uint64_t value, int by) {
        return value << by | value >> (64 - by);
    }

    // clang-format off
    void round() {
        v0 += v1; v1 = rotated(v1, 13); v1 ^= v0; v0 = rotated(v0, 32);
        v2 += v3; v3 = rotated(v3, 16); v3 ^= v2;
        v0 += v3; v3 = rotated(v3, 21); v3 ^= v0;
        v2 += v1; v1 = rotated(v1, 17); v1 ^= v2; v2 = rotated(v2, 32);
    }
    // clang-format on

    void take(std::uint64_t block) {
        v3 ^= block;
        round();
        v0 ^= block;
    }

    std::uint64_t end() {
        v2 ^= 0xff;
        round();
        round();
        round();
        return v0 ^ v1 ^ v2 ^ v3;
    }
};

// Return `size` bytes, at most 8, as a little-endian number: a block of the hash.
inline std::uint64_t block(const char* at, std::size_t size) {
    std::uint64_t value = 0;
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    std::memcpy(&value, at, size);
#else
    for (std::size_t i = 0; i < size; ++i)
        value |= std::uint64_t(static_cast<unsigned char>(at[i])) << (8 * i);
#endif
    return value;
}

// Return the last 0 to 7 bytes of `size` as a block, without a call of memcpy(3) for so few.
inline std::uint64_t rest(const char* at, std::size_t size) {
    std::uint64_t value = 0;
    if (size & 4) value = block(at, 4);
    if (size & 2) value |= block(at + (size & 4), 2) << (8 * (size & 4));
    if (size & 1) value |= block(at + (size & 6), 1) << (8 * (size & 6));
    return value;
}

// Return a block as a big-endian number: numbers compare as the bytes do.
inline std::uint64_t big_endian(std::uint64_t block) { return __builtin_bswap64(block); }

}  // namespace sip

inline std::uint64_t siphash13(HashKey key, const char* at, std::size_t size) {
    sip::State state(key);
    const std::uint64_t last = std::uint64_t(size) << 56;
    for (; size >= 8; at += 8, size -= 8) state.take(sip::block(at, 8));
    state.take(last | sip::rest(at, size));
    return state.end();
}

// The same for fewer than 8 bytes, given as a block.
inline std::uint64_t siphash13(HashKey key, std::uint64_t block, std::size_t size) {
    sip::State state(key);
    state.take(std::uint64_t(size) << 56 | block);
    return state.end();
}

}  // namespace kvs

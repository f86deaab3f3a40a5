// A byte string that grows at its end. Space is reserved before bytes are appended, so that
// `append` never fails. In contrast to std::string, the reserved bytes are not initialized.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string_view>

#include "words.hpp"

namespace kvs {

class Buffer {
public:
    Buffer() = default;
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { std::free(data_); }

    // Reserve space for `extra` more bytes. Throws std::bad_alloc.
    void reserve_more(std::size_t extra) {
        if (extra <= capacity_ - size_) return;
        const std::size_t capacity =
            size_ + extra + (size_ < MAX_SLACK_BYTES ? size_ : MAX_SLACK_BYTES);
        void* memory = std::realloc(data_, capacity);
        if (!memory) throw std::bad_alloc();
        data_ = static_cast<char*>(memory);
        capacity_ = capacity;
    }

    void append(char byte) {
        assert(size_ < capacity_);
        data_[size_++] = byte;
    }

    void append(std::string_view text) {
        if (text.empty()) return;
        assert(text.size() <= capacity_ - size_);
        std::memcpy(data_ + size_, text.data(), text.size());
        size_ += text.size();
    }

    // Append at most 40 bytes.
    ALWAYS_INLINE void append_word(std::string_view word) {
        assert(word.size() <= WORD_BYTES && word.size() <= capacity_ - size_);
        copy_word(data_ + size_, word.data(), word.size());
        size_ += word.size();
    }

    // Append the last `size` bytes again, `times` times.
    void repeat(std::size_t size, std::size_t times) {
        const char* const from = data_ + size_ - size;
        const std::size_t extra = size * times;
        assert(size <= size_ && extra <= capacity_ - size_);
        // The copies are a source as well, so each piece is twice as long as the one before.
        for (std::size_t done = 0, piece = size; done < extra; done += piece) {
            piece = std::min(done + size, extra - done);
            std::memcpy(data_ + size_ + done, from, piece);
        }
        size_ += extra;
    }

    void clear() { size_ = 0; }
    // Remove all bytes but the first `size`.
    void truncate(std::size_t size) {
        assert(size <= size_);
        size_ = size;
    }

    // Copy all bytes to `to` and clear the buffer, from the end to the start. Copied memory is
    // released on the way, so that the peak is little more than one copy of the bytes.
    void drain_to(char* to) {
        while (size_) {
            const std::size_t remaining = size_ > PIECE_BYTES ? size_ - PIECE_BYTES : 0;
            std::memcpy(to + remaining, data_ + remaining, size_ - remaining);
            size_ = remaining;
            if (capacity_ < PIECE_BYTES) continue;
            if (void* memory = std::realloc(data_, remaining ? remaining : 1)) {
                data_ = static_cast<char*>(memory);
                capacity_ = remaining ? remaining : 1;
            }
        }
    }

    const char* data() const { return data_; }
    std::size_t size() const { return size_; }
    // Return the bytes from `start` on.
    std::string_view view_from(std::size_t start) const {
        return size_ == start ? std::string_view() : std::string_view(data_ + start, size_ - start);
    }

private:
    static constexpr std::size_t PIECE_BYTES = std::size_t(1) << 20;
    static constexpr std::size_t MAX_SLACK_BYTES = std::size_t(1) << 24;

    char* data_ = nullptr;
    std::size_t size_ = 0;
    std::size_t capacity_ = 0;
};

}  // namespace kvs

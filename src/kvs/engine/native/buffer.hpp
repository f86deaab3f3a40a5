// Bytes that grow at their end. Room is made beforehand, so that what is put in never fails.
#pragma once

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
    ~Buffer() { std::free(at_); }

    // Let so many more bytes be put in; throws std::bad_alloc.
    void make_room(std::size_t more) {
        if (more <= room_ - size_) return;
        const std::size_t room = size_ + more + (size_ < MOST_SPARE ? size_ : MOST_SPARE);
        void* at = std::realloc(at_, room);
        if (!at) throw std::bad_alloc();
        at_ = static_cast<char*>(at);
        room_ = room;
    }

    void put(char byte) { at_[size_++] = byte; }

    void put(std::string_view text) {
        if (text.empty()) return;
        std::memcpy(at_ + size_, text.data(), text.size());
        size_ += text.size();
    }

    // The same for few bytes.
    void put_word(std::string_view word) {
        copy_word(at_ + size_, word.data(), word.size());
        size_ += word.size();
    }

    void clear() { size_ = 0; }
    const char* data() const { return at_; }
    std::size_t size() const { return size_; }
    std::string_view from(std::size_t start) const {
        return size_ == start ? std::string_view() : std::string_view(at_ + start, size_ - start);
    }

private:
    static constexpr std::size_t MOST_SPARE = std::size_t(1) << 24;

    char* at_ = nullptr;
    std::size_t size_ = 0;
    std::size_t room_ = 0;
};

}  // namespace kvs

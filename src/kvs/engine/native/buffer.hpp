// Bytes that grow at their end. Room is made beforehand, so that what is put in never fails.
#pragma once

#include <algorithm>
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

    // Put the last `size` bytes so many more times.
    void repeat(std::size_t size, std::size_t times) {
        const char* const from = at_ + size_ - size;
        const std::size_t more = size * times;
        // What has been put is as good to copy from, so each piece is twice as long as the last.
        for (std::size_t done = 0, piece = size; done < more; done += piece) {
            piece = std::min(done + size, more - done);
            std::memcpy(at_ + size_ + done, from, piece);
        }
        size_ += more;
    }

    void clear() { size_ = 0; }
    // Keep the first `size` bytes.
    void cut(std::size_t size) { size_ = size; }

    // Copy all to `to` and clear this, from the end on: memory that has been copied is given back on
    // the way, so that all is hardly ever there twice.
    void move_to(char* to) {
        while (size_) {
            const std::size_t keep = size_ > PIECE ? size_ - PIECE : 0;
            std::memcpy(to + keep, at_ + keep, size_ - keep);
            size_ = keep;
            if (room_ < PIECE) continue;
            if (void* at = std::realloc(at_, keep ? keep : 1)) {
                at_ = static_cast<char*>(at);
                room_ = keep ? keep : 1;
            }
        }
    }
    const char* data() const { return at_; }
    std::size_t size() const { return size_; }
    std::string_view from(std::size_t start) const {
        return size_ == start ? std::string_view() : std::string_view(at_ + start, size_ - start);
    }

private:
    static constexpr std::size_t PIECE = std::size_t(1) << 20;
    static constexpr std::size_t MOST_SPARE = std::size_t(1) << 24;

    char* at_ = nullptr;
    std::size_t size_ = 0;
    std::size_t room_ = 0;
};

}  // namespace kvs

// Memory straight from the kernel (mmap(2)): zeros, of which only what is touched takes room.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <new>
#include <utility>

namespace kvs {

class Pages {
public:
    Pages() = default;

    // Throws std::bad_alloc.
    explicit Pages(std::size_t size) : size_(size) {
        if (!size) return;
        void* at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED) throw std::bad_alloc();
        at_ = static_cast<char*>(at);
    }

    Pages(Pages&& other) noexcept
        : at_(std::exchange(other.at_, nullptr)), size_(std::exchange(other.size_, 0)) {}

    Pages& operator=(Pages&& other) noexcept {
        std::swap(at_, other.at_);
        std::swap(size_, other.size_);
        return *this;
    }

    ~Pages() {
        if (at_) munmap(at_, size_);
    }

    char* at() const { return at_; }
    std::size_t size() const { return size_; }

private:
    char* at_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace kvs

// Memory from mmap(2): zeros, of which only the touched pages take memory.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <new>
#include <utility>

namespace kvs {

class MappedMemory {
public:
    MappedMemory() = default;

    // Throws std::bad_alloc.
    explicit MappedMemory(std::size_t size) : size_(size) {
        if (!size) return;
        void* address =
            mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (address == MAP_FAILED) throw std::bad_alloc();
        data_ = static_cast<char*>(address);
    }

    MappedMemory(MappedMemory&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

    MappedMemory& operator=(MappedMemory&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        return *this;
    }

    ~MappedMemory() {
        if (data_) munmap(data_, size_);
    }

    char* data() const { return data_; }
    std::size_t size() const { return size_; }

private:
    char* data_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace kvs

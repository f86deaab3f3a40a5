// Memory from mmap(2): zeros, of which only the touched pages take memory.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

namespace kvs {

// Give whole pages back to the kernel; their content is undefined then. The mapping stays, so
// another thread may prefetch from it, and the number of mappings stays too.
inline void discard_pages(char* at, std::size_t size) { madvise(at, size, MADV_DONTNEED); }

// Map whole pages that are used soon: at once, which takes less time than a page fault for each. A
// hint.
inline void populate_pages([[maybe_unused]] char* at, [[maybe_unused]] std::size_t size) {
#ifdef MADV_POPULATE_WRITE
    madvise(at, size, MADV_POPULATE_WRITE);
#endif
}

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

    // Enlarge to `size` bytes; the memory may move. On Linux the kernel moves page tables and
    // copies no bytes. Throws std::bad_alloc; then nothing has changed.
    void grow(std::size_t size) {
        assert(size >= size_);
#if defined(MREMAP_MAYMOVE) && !defined(KVS_PORTABLE)
        if (data_) {
            void* address = mremap(data_, size_, size, MREMAP_MAYMOVE);
            if (address == MAP_FAILED) throw std::bad_alloc();
            data_ = static_cast<char*>(address);
            size_ = size;
            return;
        }
#endif
        MappedMemory larger(size);
        if (data_) std::memcpy(larger.data_, data_, size_);
        *this = std::move(larger);
    }

    char* data() const { return data_; }
    std::size_t size() const { return size_; }

private:
    char* data_ = nullptr;
    std::size_t size_ = 0;
};

// An array of zeroed items that grows without copying them, and never shrinks. The caller counts
// the items in use. Only the touched pages take memory.
template <typename Item>
class MappedArray {
    static_assert(std::is_trivially_copyable_v<Item>);

public:
    // Make room for `count` items. Throws std::bad_alloc; then nothing has changed.
    void reserve(std::size_t count) {
        if (count > capacity())
            memory_.grow(std::max({count * sizeof(Item), 2 * memory_.size(), INITIAL_BYTES}));
    }

    std::size_t capacity() const { return memory_.size() / sizeof(Item); }
    Item* data() const { return reinterpret_cast<Item*>(memory_.data()); }
    Item& operator[](std::size_t i) const {
        assert(i < capacity());
        return data()[i];
    }

private:
    static constexpr std::size_t INITIAL_BYTES = std::size_t(1) << 16;

    MappedMemory memory_;
};

}  // namespace kvs

// A vector of trivially copyable items. In contrast to std::vector, a new item is uninitialized:
// its fields are written once, in place. Growth is by realloc(3), which moves large arrays without
// copying.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdlib>
#include <new>
#include <type_traits>

namespace kvs {

// Thrown by a vector that holds its maximum of items.
struct CapacityExceeded {};

// Holds at most MAX_ITEMS items, a power of two.
template <typename Item, std::size_t MAX_ITEMS>
class PodVector {
    static_assert(std::is_trivially_copyable_v<Item>);

public:
    PodVector() = default;
    PodVector(const PodVector&) = delete;
    PodVector& operator=(const PodVector&) = delete;
    ~PodVector() { std::free(items_); }

    // Append an item without a value and return it. Throws std::bad_alloc or CapacityExceeded.
    Item& push_uninitialized() {
        if (size_ == capacity_) grow();
        return items_[size_++];
    }

    // Remove all items but the first `size`.
    void truncate(std::size_t size) {
        assert(size <= size_);
        size_ = size;
    }

    std::size_t size() const { return size_; }
    Item& operator[](std::size_t i) {
        assert(i < size_);
        return items_[i];
    }
    const Item& operator[](std::size_t i) const {
        assert(i < size_);
        return items_[i];
    }
    Item* begin() { return items_; }
    Item* end() { return items_ + size_; }

private:
    static constexpr std::size_t INITIAL_CAPACITY = 64;

    static_assert(MAX_ITEMS >= INITIAL_CAPACITY && (MAX_ITEMS & (MAX_ITEMS - 1)) == 0);

    void grow() {
        if (capacity_ == MAX_ITEMS) throw CapacityExceeded();
        const std::size_t capacity = capacity_ ? 2 * capacity_ : INITIAL_CAPACITY;
        void* items = std::realloc(items_, capacity * sizeof(Item));
        if (!items) throw std::bad_alloc();
        items_ = static_cast<Item*>(items);
        capacity_ = capacity;
    }

    Item* items_ = nullptr;
    std::size_t size_ = 0;
    std::size_t capacity_ = 0;
};

}  // namespace kvs

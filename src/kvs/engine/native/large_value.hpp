// Large values: those that do not lie in a record. A large value is an immutable block of bytes
// with a count of references, so that a READ or a SHOW takes a pointer under the engine's lock and
// copies the bytes without it.
//
// Memory: blocks of powers of two bytes of address space, carved from mappings that are never
// unmapped. Only the pages of a block that its value needs take memory. When a value is freed, its
// pages go back to the kernel, but for a cache of 1 MiB of blocks of each size, used next.
// malloc(3) would return such blocks by munmap(2), a mapping each, or keep them.
//
// Invariants:
//   - A block in use has no touched page behind its value: `allocate` discards what a longer value
//     left there.
//   - `free` never fails: there is a place in the arrays of free blocks for every block.
//
// Limits: address space is up to twice the memory in use. A value takes whole pages.
//
// Threads: create, acquire and release from any thread. The allocator's lock is a leaf, held for a
// few instructions and, rarely, an mmap(2). No fork(2) finds it locked, so a forked child may use
// the allocator as well. What a child frees goes to its own allocator.
#pragma once

#include <pthread.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cassert>
#include <cstdint>
#include <new>
#include <string_view>
#include <utility>

#include "lock.hpp"
#include "mapped_memory.hpp"
#include "output_format.hpp"
#include "words.hpp"

namespace kvs {

class LargeValueMemory {
public:
    // The one of the process, which is never destroyed. Throws std::bad_alloc.
    static LargeValueMemory& instance() {
        static LargeValueMemory* const memory = new LargeValueMemory;
        return *memory;
    }

    // Return a block of at least `bytes` bytes, uninitialized. Throws std::bad_alloc.
    char* allocate(std::size_t bytes) EXCLUDES(lock_) {
        FreeBlock block;
        {
            const ScopedLock held(lock_);
            block = take(class_of(bytes));
        }
        const std::size_t needed = whole_pages(bytes);
        if (block.resident > needed) discard_pages(block.at + needed, block.resident - needed);
        return block.at;
    }

    // Free a block that `allocate` returned for `bytes` bytes.
    void free(char* at, std::size_t bytes) noexcept EXCLUDES(lock_) {
        SizeClass& blocks = classes_[class_of(bytes)];
        const std::size_t resident = whole_pages(bytes);
        {
            const ScopedLock held(lock_);
            if (blocks.cached_bytes + resident <= MAX_CACHED_BYTES) {
                blocks.cached_bytes += resident;
                blocks.cached[blocks.cached_count++] = {at, resident};
                return;
            }
        }
        discard_pages(at, resident);
        const ScopedLock held(lock_);
        blocks.discarded[blocks.discarded_count++] = at;
    }

private:
    static constexpr int MIN_BLOCK_BITS = 14;
    static constexpr int MAX_BLOCK_BITS = 25;  // a value of the maximum size and its header
    static constexpr std::size_t REGION_BYTES = std::size_t(1) << 22;
    static constexpr std::size_t MAX_CACHED_BYTES = std::size_t(1) << 20;  // of each size

    struct FreeBlock {
        char* at;
        std::size_t resident;  // bytes from its start that may be touched
    };

    // The blocks of one size.
    struct SizeClass {
        MappedArray<FreeBlock> cached;
        std::size_t cached_count = 0;
        std::size_t cached_bytes = 0;
        MappedArray<char*> discarded;  // without a touched page
        std::size_t discarded_count = 0;
        std::size_t block_count = 0;  // in use or free
        char* rest = nullptr;         // of the last region
        std::size_t rest_bytes = 0;
    };

    LargeValueMemory() {
        if (pthread_atfork(before_fork, after_fork, after_fork)) throw std::bad_alloc();
    }

    static void before_fork() NO_THREAD_SAFETY_ANALYSIS { instance().lock_.lock(); }
    static void after_fork() NO_THREAD_SAFETY_ANALYSIS { instance().lock_.unlock(); }

    static std::size_t class_of(std::size_t bytes) {
        std::size_t number = 0;
        while (bytes > std::size_t(1) << (MIN_BLOCK_BITS + number)) ++number;
        assert(number <= MAX_BLOCK_BITS - MIN_BLOCK_BITS);
        return number;
    }

    static std::size_t whole_pages(std::size_t bytes) {
        static const std::size_t page = std::size_t(sysconf(_SC_PAGESIZE));
        return (bytes + page - 1) / page * page;
    }

    FreeBlock take(std::size_t number) REQUIRES(lock_) {
        SizeClass& blocks = classes_[number];
        if (blocks.cached_count) {
            const FreeBlock block = blocks.cached[--blocks.cached_count];
            blocks.cached_bytes -= block.resident;
            return block;
        }
        if (blocks.discarded_count) return {blocks.discarded[--blocks.discarded_count], 0};
        return {carve(blocks, std::size_t(1) << (MIN_BLOCK_BITS + number)), 0};
    }

    // Return a new block.
    char* carve(SizeClass& blocks, std::size_t bytes) REQUIRES(lock_) {
        blocks.cached.reserve(blocks.block_count + 1);
        blocks.discarded.reserve(blocks.block_count + 1);
        if (!blocks.rest_bytes) {
            const std::size_t size = std::max(bytes, REGION_BYTES);
            blocks.rest = map_region(size);
            blocks.rest_bytes = size;
        }
        char* const block = blocks.rest;
        blocks.rest += bytes;
        blocks.rest_bytes -= bytes;
        ++blocks.block_count;
        return block;
    }

    // A huge page would make untouched pages of a block take memory.
    static char* map_region(std::size_t size) {
        void* address =
            mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (address == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_NOHUGEPAGE
        madvise(address, size, MADV_NOHUGEPAGE);
#endif
        return static_cast<char*>(address);
    }

    SpinThenSleepLock lock_;                                              // a leaf
    std::array<SizeClass, MAX_BLOCK_BITS - MIN_BLOCK_BITS + 1> classes_;  // guarded by `lock_`
};

class LargeValue {
public:
    // Create a value with one reference, the caller's. Throws std::bad_alloc.
    static LargeValue* create(std::string_view bytes, bool is_plain) {
        assert(bytes.size() <= MAX_VALUE_BYTES);
        char* const block =
            LargeValueMemory::instance().allocate(sizeof(LargeValue) + bytes.size());
        if (!bytes.empty()) std::memcpy(block + sizeof(LargeValue), bytes.data(), bytes.size());
        return new (block) LargeValue(bytes, is_plain);
    }

    LargeValue(const LargeValue&) = delete;
    LargeValue& operator=(const LargeValue&) = delete;

    // Add a reference. The caller holds one, or the engine's lock with the value in the table.
    void acquire() noexcept { references_.fetch_add(1, std::memory_order_relaxed); }

    // Remove a reference, and free the value with the last one.
    void release() noexcept {
        // Release: what this thread read is read before another frees it; acquire: the reverse.
        if (references_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
        const std::size_t bytes = sizeof(LargeValue) + size_;
        LargeValueMemory::instance().free(reinterpret_cast<char*>(this), bytes);
    }

    const char* data() const { return reinterpret_cast<const char*>(this + 1); }
    std::uint32_t size() const { return size_; }
    bool is_plain() const { return is_plain_; }
    // The bytes of its canonical spelling, which are counted once.
    std::size_t spelled_size() const { return spelled_size_; }

private:
    friend class DroppedValues;

    LargeValue(std::string_view bytes, bool is_plain)
        : size_(std::uint32_t(bytes.size())),
          spelled_size_(std::uint32_t(kvs::spelled_size(bytes, is_plain))),
          is_plain_(is_plain) {}

    std::atomic<std::uint32_t> references_{1};
    const std::uint32_t size_;
    const std::uint32_t spelled_size_;
    LargeValue* next_dropped_ = nullptr;
    const bool is_plain_;
};

// A reference to a large value, or none.
class LargeValueRef {
public:
    LargeValueRef() = default;
    // Take over the caller's reference.
    explicit LargeValueRef(LargeValue* value) noexcept : value_(value) {}
    LargeValueRef(LargeValueRef&& other) noexcept : value_(std::exchange(other.value_, nullptr)) {}
    LargeValueRef& operator=(LargeValueRef&& other) noexcept {
        std::swap(value_, other.value_);
        return *this;
    }
    ~LargeValueRef() {
        if (value_) value_->release();
    }

    LargeValue* get() const { return value_; }

private:
    LargeValue* value_ = nullptr;
};

// References that the table had to values that it holds no longer. They are released when this is
// destroyed, which is to be without the engine's lock: to give 16 MiB back takes about a
// millisecond.
class DroppedValues {
public:
    DroppedValues() = default;
    DroppedValues(DroppedValues&& other) noexcept : first_(std::exchange(other.first_, nullptr)) {}
    DroppedValues& operator=(DroppedValues&& other) noexcept {
        std::swap(first_, other.first_);
        return *this;
    }
    ~DroppedValues() {
        while (first_) std::exchange(first_, first_->next_dropped_)->release();
    }

    // Take over the reference of the one record that had this value.
    void add(LargeValue* value) noexcept {
        assert(!value->next_dropped_);
        value->next_dropped_ = first_;
        first_ = value;
    }

    bool empty() const { return !first_; }

private:
    LargeValue* first_ = nullptr;
};

}  // namespace kvs

// All pairs of a table at one instant: sorted, for SHOW and backups, or in the order of the
// records.
//
// This code reads records, changes none and takes no lock. So a forked child may use it, and makes
// no page its own but those that it allocates: 16 bytes a pair for a sorted dump.
#pragma once

#include <algorithm>
#include <cassert>
#include <vector>

#include "buffer.hpp"
#include "output_format.hpp"
#include "records.hpp"
#include "table.hpp"

namespace kvs {

constexpr std::size_t PAIRS_PER_BLOCK = 4096;
constexpr std::size_t PAIRS_PER_WRITE = 256;

inline Word key_at(const char* record) { return Record(const_cast<char*>(record)).key(); }
inline Word value_at(const char* record) { return Record(const_cast<char*>(record)).value(); }

// A copy of the records of a table.
class TableCopy {
public:
    // Allocate memory before the lock is taken, as much as will probably suffice. Throws
    // std::bad_alloc.
    explicit TableCopy(std::size_t bytes) : memory_(bytes) {
        // Touch each page, so that the kernel maps the pages now and not under the lock.
        for (std::size_t i = 0; i < bytes; i += PAGE_BYTES) memory_.data()[i] = 0;
    }

    // Copy the records, under the lock; return false if there is too little memory.
    bool copy_from(const Table& table) {
        try {
            const std::size_t bytes = table.records().bytes();
            if (bytes > memory_.size()) memory_ = MappedMemory(bytes);
            spans_ = table.records().spans();
        } catch (const std::bad_alloc&) {
            return false;
        }
        assert(memory_.size() >= table.records().bytes());
        char* to = memory_.data();
        for (Span& span : spans_) {
            const std::size_t size = std::size_t(span.end - span.begin);
            std::memcpy(to, span.begin, size);
            span = {to, to + size};
            to += size;
        }
        count_ = table.size();
        return true;
    }

    const std::vector<Span>& spans() const { return spans_; }
    std::size_t count() const { return count_; }

private:
    static constexpr std::size_t PAGE_BYTES = 4096;

    MappedMemory memory_;
    std::vector<Span> spans_;
    std::size_t count_ = 0;
};

// The lines of SHOW, in ascending order of the keys.
//
// Entries are sorted by a prefix of 8 bytes as a number, taken after the bytes that all keys have
// in common (as in key0001, key0002), so that most comparisons look at no record.
class SortedDump {
public:
    // The records must not change during the life of the dump. Throws std::bad_alloc.
    SortedDump(const std::vector<Span>& spans, std::size_t count) {
        entries_.reserve(count);
        for (const Span& span : spans)
            Records::for_each(span, [this](const char* at) { entries_.push_back({0, at}); });
        const std::size_t shared = common_prefix_bytes();
        for (std::size_t i = 0; i < entries_.size(); ++i) {
            entries_[i].prefix = prefix(key_at(entries_[i].record), shared);
        }
        std::sort(entries_.begin(), entries_.end());
    }

    std::size_t size() const { return entries_.size(); }
    Word key(std::size_t i) const { return key_at(entries_[i].record); }
    Word value(std::size_t i) const { return value_at(entries_[i].record); }

    bool is_finished() const { return next_ == entries_.size(); }

    // Append the lines of the next 4096 pairs at most. Throws std::bad_alloc.
    void append_block(Buffer& out) {
        const std::size_t end = std::min(next_ + PAIRS_PER_BLOCK, entries_.size());
        out.reserve_more((end - next_) * MAX_LISTING_LINE_BYTES);
        for (; next_ < end; ++next_) {
            if (next_ + PREFETCH_DISTANCE < entries_.size())
                __builtin_prefetch(entries_[next_ + PREFETCH_DISTANCE].record);
            append_listing_line(out, key(next_).view(), value(next_).view());
        }
    }

private:
    static constexpr std::size_t PREFETCH_DISTANCE = 16;  // records

    // The prefix is the 8 bytes after the common prefix, as a big-endian number.
    struct Entry {
        std::uint64_t prefix;
        const char* record;

        bool operator<(const Entry& other) const {
            if (prefix != other.prefix) return prefix < other.prefix;
            return key_at(record).view() < key_at(other.record).view();
        }
    };

    std::size_t common_prefix_bytes() const {
        if (entries_.empty()) return 0;
        const Word first = key_at(entries_[0].record);
        std::size_t shared = first.size;
        for (const Entry& entry : entries_) {
            const Word key = key_at(entry.record);
            shared = std::min(shared, std::size_t(key.size));
            std::size_t equal = 0;
            while (equal < shared && key.at[equal] == first.at[equal]) ++equal;
            shared = equal;
        }
        return shared;
    }

    static std::uint64_t prefix(const Word& key, std::size_t shared) {
        std::uint64_t number = 0;
        for (std::size_t i = shared; i < shared + 8; ++i)
            number = number << 8 | (i < key.size ? static_cast<unsigned char>(key.at[i]) : 0);
        return number;
    }

    std::vector<Entry> entries_;
    std::size_t next_ = 0;
};

// Lines of WRITE, in the order of the records. Allocates nothing for a pair.
class WriteDump {
public:
    explicit WriteDump(const std::vector<Span>& spans) : spans_(spans) {
        if (!spans_.empty()) at_ = spans_[0].begin;
        skip_freed();
    }

    bool is_finished() const { return span_ == spans_.size(); }

    // Append a line of the next 256 pairs at most. Throws std::bad_alloc.
    void append_block(Buffer& out) {
        out.reserve_more(LINE_BYTES + sizeof("WRITE ") + PAIRS_PER_WRITE * MAX_PAIR_BYTES);
        out.append("WRITE [");
        for (std::size_t pairs_left = PAIRS_PER_WRITE; pairs_left && !is_finished(); --pairs_left) {
            append_pair(out, key_at(at_).view(), value_at(at_).view());
            at_ += Records::record_bytes(at_);
            skip_freed();
        }
        out.append("]\n");
    }

private:
    // Move to the next record that is not freed.
    void skip_freed() {
        while (!is_finished()) {
            if (at_ == spans_[span_].end) {
                if (++span_ < spans_.size()) at_ = spans_[span_].begin;
            } else if (!*at_) {
                at_ += Records::record_bytes(at_);
            } else {
                return;
            }
        }
    }

    const std::vector<Span> spans_;
    std::size_t span_ = 0;
    const char* at_ = nullptr;
};

}  // namespace kvs

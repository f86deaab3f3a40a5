// Copies of the records that a SHOW selects, taken at one instant.
//
// How it works: under the engine's lock, every key is compared with what is selected, in the order
// of the records, and only selected records are copied. With a limit, twice as many records are
// remembered at most, and the greater half of them is dropped whenever they are so many. Then the
// greatest key that is left bounds what is remembered later.
//
// Locking: the engine's lock guards the table. Nothing here takes it.
#pragma once

#include <algorithm>
#include <cassert>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mapped_memory.hpp"
#include "prefix_set.hpp"
#include "records.hpp"
#include "siphash.hpp"
#include "table.hpp"

namespace kvs {

inline Record record_at(const char* at) { return Record(const_cast<char*>(at)); }
inline Word key_at(const char* record) { return record_at(record).key(); }

// Which pairs a SHOW selects, and how it writes them.
struct DumpQuery {
    static constexpr std::size_t NO_LIMIT = std::numeric_limits<std::size_t>::max();

    // Whether it selects every pair, but for the limit.
    bool has_all() const { return prefixes.has_all() && !after; }

    // `key` is in a table.
    bool selects(const Word& key) const {
        return prefixes.matches_record_key(key) && (!after || key.view() > *after);
    }

    PrefixSet prefixes;
    std::optional<std::string> after;  // only keys greater than this
    std::size_t limit = NO_LIMIT;
    bool shows_expiries = false;
};

// A record and a prefix of its key by which it is sorted, so that most comparisons look at no
// record: 8 bytes as a big-endian number, taken after bytes that all keys have in common.
struct SortEntry {
    static std::uint64_t prefix_of(const Word& key, std::size_t shared) {
        const char* const at = key.at + shared;
        const std::size_t left = key.size - shared;
        return sip::big_endian(left < 8 ? sip::rest(at, left) : sip::block(at, 8));
    }

    bool operator<(const SortEntry& other) const {
        if (prefix != other.prefix) return prefix < other.prefix;
        return key_at(record).view() < key_at(other.record).view();
    }

    std::uint64_t prefix;
    const char* record;
};

// The records of the `limit` smallest keys that a query selects, in any order. Takes memory for
// twice as many.
class SmallestRecords {
public:
    explicit SmallestRecords(const DumpQuery& query)
        : query_(query), shared_(query.prefixes.shared_bytes()) {}

    // Throws std::bad_alloc.
    void add_from(const Span& span) {
        if (!query_.limit) return;
        Records::for_each(span, [&](const char* at) {
            const Word key = key_at(at);
            if (!query_.prefixes.matches_record_key(key)) return;
            const SortEntry entry{SortEntry::prefix_of(key, shared_), at};
            if (has_bound_ && !(entry < bound_)) return;
            if (query_.after && key.view() <= *query_.after) return;
            entries_.push_back(entry);
            if (entries_.size() / 2 >= std::max(query_.limit, MIN_ENTRIES)) keep_smallest();
        });
    }

    const std::vector<SortEntry>& take() {
        if (entries_.size() > query_.limit) keep_smallest();
        return entries_;
    }

private:
    static constexpr std::size_t MIN_ENTRIES = 128;

    void keep_smallest() {
        const auto last = entries_.begin() + std::ptrdiff_t(query_.limit - 1);
        std::nth_element(entries_.begin(), last, entries_.end());
        bound_ = *last;
        has_bound_ = true;
        entries_.resize(query_.limit);
    }

    const DumpQuery& query_;
    const std::size_t shared_;
    std::vector<SortEntry> entries_;
    SortEntry bound_{};  // the greatest key that can be among the smallest
    bool has_bound_ = false;
};

// A copy of the records of a table that a query selects, with references to their large values.
//
// The memory is mapped before the lock is taken, as much as will probably suffice. What the query
// does not select costs a look at its key and touches no page of the copy.
class TableCopy {
public:
    // Throws std::bad_alloc.
    explicit TableCopy(std::size_t bytes, DumpQuery query = {})
        : query_(std::move(query)), memory_(bytes) {
        if (!query_.has_all() || query_.limit != DumpQuery::NO_LIMIT) return;
        // Touch each page, so that the kernel maps the pages now and not under the lock.
        for (std::size_t i = 0; i < bytes; i += PAGE_BYTES) memory_.data()[i] = 0;
    }

    TableCopy(const TableCopy&) = delete;
    TableCopy& operator=(const TableCopy&) = delete;

    ~TableCopy() {
        for_each_large([](LargeValue* large) { large->release(); });
    }

    // Copy the records, under the lock; return false if there is too little memory. Once only.
    bool copy_from(const Table& table) {
        assert(pairs_.spans.empty());
        const bool is_limited = query_.limit < table.size();
        SmallestRecords smallest(query_);
        std::vector<Span> spans;
        try {
            const std::size_t bytes = table.copy_bytes();
            if (bytes > memory_.size()) memory_ = MappedMemory(bytes);
            spans = table.records().spans();
            if (is_limited)
                for (const Span& span : spans) smallest.add_from(span);
        } catch (const std::bad_alloc&) {
            return false;
        }
        assert(memory_.size() >= table.copy_bytes());
        const ExpiryHeap& heap = table.expiries();
        Expiry* const expiries = reinterpret_cast<Expiry*>(memory_.data());
        end_ = memory_.data() + heap.size() * sizeof(Expiry);
        if (is_limited) {
            copy_records(smallest.take(), spans);
        } else {
            for (Span& span : spans) query_.has_all() ? copy_whole(span) : copy_selected(span);
        }
        pairs_.spans = std::move(spans);
        pairs_.expiries = expiries;
        if (!is_limited && query_.has_all()) {
            pairs_.count = table.size();
            if (heap.size()) std::memcpy(expiries, heap.entries(), heap.size() * sizeof(Expiry));
        } else if (query_.shows_expiries) {
            copy_expiries(heap, expiries);
        }
        for_each_large([](LargeValue* large) { large->acquire(); });
        return true;
    }

    // The pairs of the selected records. They have their expiries only if the query shows them or
    // selects every pair.
    const Pairs& pairs() const { return pairs_; }

    const DumpQuery& query() const { return query_; }

private:
    static constexpr std::size_t PAGE_BYTES = 4096;

    const char* copy(const char* begin, const char* end) {
        std::memcpy(end_, begin, std::size_t(end - begin));
        return std::exchange(end_, end_ + (end - begin));
    }

    // Each of these copies records of a span, and makes it the span of the copies.

    void copy_whole(Span& span) {
        span.begin = copy(span.begin, span.end);
        span.end = end_;
    }

    // Adjacent records are copied at once.
    void copy_selected(Span& span) {
        const char* const begin = end_;
        const char* from = nullptr;  // the first of the selected records that are not yet copied
        Records::for_each(span, [&](const char* at) {
            if (query_.selects(key_at(at))) {
                if (!from) from = at;
                ++pairs_.count;
            } else if (from) {
                copy(std::exchange(from, nullptr), at);
            }
        });
        if (from) copy(from, span.end);
        span.begin = begin;
        span.end = end_;
    }

    void copy_records(const std::vector<SortEntry>& entries, std::vector<Span>& spans) {
        if (spans.empty()) return;
        Span& all = spans.front();
        for (const Span& span : spans) all.has_large |= span.has_large;
        spans.resize(1);
        all.begin = end_;
        for (const SortEntry& entry : entries)
            copy(entry.record, entry.record + Records::record_bytes(entry.record));
        all.end = end_;
        pairs_.count = entries.size();
    }

    // Copy the expiries of the copied records, and tell these the new positions.
    void copy_expiries(const ExpiryHeap& heap, Expiry* expiries) {
        std::uint32_t count = 0;
        for (const Span& span : pairs_.spans)
            Records::for_each(span, [&](const char* at) {
                Record record = record_at(at);
                if (!record.expires()) return;
                expiries[count] = heap[record.heap_position()];
                record.set_heap_position(count++);
            });
    }

    template <typename Visit>
    void for_each_large(Visit visit) {
        for (const Span& span : pairs_.spans)
            if (span.has_large)
                Records::for_each(span, [&](const char* at) {
                    if (record_at(at).is_large()) visit(record_at(at).value().large);
                });
    }

    const DumpQuery query_;
    MappedMemory memory_;  // the expiries, then the records
    char* end_ = nullptr;  // of the copied records
    Pairs pairs_;
};

}  // namespace kvs

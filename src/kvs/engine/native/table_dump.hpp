// Pairs of a table at one instant: sorted, for SHOW and backups, or in the order of the records.
//
// This code reads records, changes none and takes no lock. So a forked child may use it, and makes
// no page its own but those that it allocates: 16 bytes a pair for a sorted dump.
#pragma once

#include <algorithm>
#include <vector>

#include "buffer.hpp"
#include "output_format.hpp"
#include "records.hpp"
#include "table.hpp"
#include "table_copy.hpp"

namespace kvs {

constexpr std::size_t PAIRS_PER_BLOCK = 4096;
constexpr std::size_t PAIRS_PER_WRITE = 256;
// Bytes after which a block or a line of WRITE ends, whatever its pairs.
constexpr std::size_t MAX_BLOCK_BYTES = std::size_t(1) << 20;

inline std::uint64_t until_at(const char* at, const Expiry* expiries) {
    const Record record = record_at(at);
    return record.expires() ? expiries[record.heap_position()].until : NO_EXPIRY;
}

// The lines of SHOW, in ascending order of the keys.
class SortedDump {
public:
    // The records must not change during the life of the dump. Throws std::bad_alloc.
    explicit SortedDump(const Pairs& pairs, bool shows_expiries = false)
        : expiries_(shows_expiries ? pairs.expiries : nullptr) {
        entries_.reserve(pairs.count);
        for (const Span& span : pairs.spans)
            Records::for_each(span, [&](const char* at) { entries_.push_back({0, at}); });
        const std::size_t shared = common_prefix_bytes();
        for (SortEntry& entry : entries_)
            entry.prefix = SortEntry::prefix_of(key_at(entry.record), shared);
        std::sort(entries_.begin(), entries_.end());
    }

    std::size_t size() const { return entries_.size(); }
    Word key(std::size_t i) const { return key_at(entries_[i].record); }
    ValueView value(std::size_t i) const { return record_at(entries_[i].record).value(); }

    bool is_finished() const { return next_ == entries_.size(); }

    // Append the lines of the next pairs: 4096 or about 1 MiB at most, but at least one. Throws
    // std::bad_alloc.
    void append_block(Buffer& out) {
        const std::size_t end = std::min(next_ + PAIRS_PER_BLOCK, entries_.size());
        const std::size_t max_size = out.size() + MAX_BLOCK_BYTES;
        out.reserve_more((end - next_) * MAX_LISTING_LINE_BYTES);
        for (; next_ < end && out.size() < max_size; ++next_) {
            if (next_ + PREFETCH_DISTANCE < entries_.size())
                __builtin_prefetch(entries_[next_ + PREFETCH_DISTANCE].record);
            const char* const at = entries_[next_].record;
            if (record_at(at).is_short())
                append_listing_line(out, key_at(at).view(), record_at(at).value().view());
            else
                append_extended(out, at, (end - next_ - 1) * MAX_LISTING_LINE_BYTES);
        }
    }

private:
    static constexpr std::size_t PREFETCH_DISTANCE = 16;  // records

    // Append the line of an extended record, and keep `reserved` bytes for the lines after it.
    void append_extended(Buffer& out, const char* at, std::size_t reserved) const {
        const Record record = record_at(at);
        const std::string_view key = record.key().view();
        const ValueView value = record.value();
        out.reserve_more(max_spelled_size(key.size(), record.key_is_plain()) +
                         value.spelled_size() + MAX_UNTIL_BYTES + reserved);
        out.append('(');
        append_spelled(out, key, record.key_is_plain());
        out.append(", ");
        append_spelled(out, value.view(), value.is_plain);
        out.append(')');
        if (expiries_ && record.expires()) {
            out.append(' ');
            append_until(out, until_at(at, expiries_));
        }
        out.append('\n');
    }

    std::size_t common_prefix_bytes() const {
        if (entries_.empty()) return 0;
        const Word first = key_at(entries_[0].record);
        std::size_t shared = first.size;
        for (const SortEntry& entry : entries_) {
            const Word key = key_at(entry.record);
            shared = std::min(shared, std::size_t(key.size));
            std::size_t equal = 0;
            while (equal < shared && key.at[equal] == first.at[equal]) ++equal;
            shared = equal;
        }
        return shared;
    }

    std::vector<SortEntry> entries_;
    std::size_t next_ = 0;
    const Expiry* const expiries_;  // null if they are not shown
};

// Lines of WRITE, in the order of the records, with UNTIL where pairs expire. Allocates nothing for
// a pair.
class WriteDump {
public:
    // The records must not change during the life of the dump. Throws std::bad_alloc.
    explicit WriteDump(const Pairs& pairs) : spans_(pairs.spans), expiries_(pairs.expiries) {
        if (!spans_.empty()) at_ = spans_[0].begin;
        skip_freed();
    }

    bool is_finished() const { return span_ == spans_.size(); }

    // Append a line of the next pairs that expire at the same time: 256 or about 1 MiB at most, but
    // at least one. Throws std::bad_alloc.
    void append_block(Buffer& out) {
        const std::uint64_t until = until_at(at_, expiries_);
        const std::size_t max_size = out.size() + MAX_BLOCK_BYTES;
        out.reserve_more(sizeof("WRITE [") + PAIRS_PER_WRITE * MAX_PAIR_BYTES + END_BYTES);
        out.append("WRITE [");
        for (std::size_t pairs_left = PAIRS_PER_WRITE;
             pairs_left && !is_finished() && out.size() < max_size &&
             until_at(at_, expiries_) == until;
             --pairs_left) {
            const Record record = record_at(at_);
            if (record.is_short())
                append_pair(out, record.key().view(), record.value().view());
            else
                append_extended(out, record, (pairs_left - 1) * MAX_PAIR_BYTES + END_BYTES);
            at_ += Records::record_bytes(at_);
            skip_freed();
        }
        out.append(']');
        if (until != NO_EXPIRY) {
            out.append(' ');
            append_until(out, until);
        }
        out.append('\n');
    }

private:
    static constexpr std::size_t END_BYTES = LINE_BYTES + 1 + MAX_UNTIL_BYTES;

    // Append a pair, and keep `reserved` bytes for what follows.
    static void append_extended(Buffer& out, Record record, std::size_t reserved) {
        const std::string_view key = record.key().view();
        const ValueView value = record.value();
        out.reserve_more(
            pair_bytes(max_spelled_size(key.size(), record.key_is_plain()) + value.spelled_size()) +
            reserved);
        out.append('(');
        append_spelled(out, key, record.key_is_plain());
        out.append(',');
        append_spelled(out, value.view(), value.is_plain);
        out.append(')');
    }

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
    const Expiry* const expiries_;
    std::size_t span_ = 0;
    const char* at_ = nullptr;
};

}  // namespace kvs

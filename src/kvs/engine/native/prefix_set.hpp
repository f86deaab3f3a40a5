// The prefixes that a command names: which keys begin with one of them.
//
// A prefix that begins with another one is left out. Then at most one prefix fits a key: the last
// one that is not above the key. So a look-up takes the logarithm of their number. What all
// prefixes begin with, up to 8 bytes, is compared first, as a number: a scan of a table rejects
// most keys so.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "words.hpp"

namespace kvs {

class PrefixSet {
public:
    // Of every key.
    PrefixSet() : prefixes_(1) {}

    // Throws std::bad_alloc.
    explicit PrefixSet(std::vector<std::string> prefixes) : prefixes_(std::move(prefixes)) {
        std::sort(prefixes_.begin(), prefixes_.end());
        const auto begins_with = [](const std::string& first, const std::string& second) {
            return second.compare(0, first.size(), first) == 0;
        };
        prefixes_.erase(std::unique(prefixes_.begin(), prefixes_.end(), begins_with),
                        prefixes_.end());
        if (prefixes_.empty()) return;
        const std::string &first = prefixes_.front(), &last = prefixes_.back();
        while (shared_ < std::min(first.size(), last.size()) && first[shared_] == last[shared_])
            ++shared_;
        const std::size_t compared = std::min(shared_, sizeof head_);
        std::memcpy(&head_, first.data(), compared);
        std::memset(&head_mask_, 0xff, compared);
    }

    bool has_all() const { return prefixes_.size() == 1 && prefixes_[0].empty(); }

    // Return how many bytes all prefixes have in common at their start.
    std::size_t shared_bytes() const { return shared_; }

    // The same as `matches`, of a key behind whose start 8 bytes may be read, as in a table.
    ALWAYS_INLINE bool matches_record_key(const Word& key) const {
        if ((load_unaligned<std::uint64_t>(key.at) ^ head_) & head_mask_) return false;
        if (prefixes_.size() != 1) return matches(key.view());
        return key.size >= shared_ &&
               (shared_ <= sizeof head_ || key.view().substr(0, shared_) == prefixes_.front());
    }

    bool matches(std::string_view key) const {
        auto above = std::upper_bound(
            prefixes_.begin(), prefixes_.end(), key,
            [](std::string_view key, const std::string& prefix) { return key < prefix; });
        if (above == prefixes_.begin()) return false;
        const std::string& prefix = *--above;
        return key.substr(0, prefix.size()) == prefix;
    }

private:
    std::vector<std::string> prefixes_;
    std::size_t shared_ = 0;
    std::uint64_t head_ = 0;  // the first bytes that all prefixes have in common
    std::uint64_t head_mask_ = 0;
};

}  // namespace kvs

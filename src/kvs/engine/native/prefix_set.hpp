// The prefixes that a command names: which keys begin with one of them.
//
// A prefix that begins with another one is left out. Then at most one prefix fits a key: the last
// one that is not above the key. So a look-up takes the logarithm of their number.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

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
    }

    bool has_all() const { return prefixes_.size() == 1 && prefixes_[0].empty(); }

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
};

}  // namespace kvs

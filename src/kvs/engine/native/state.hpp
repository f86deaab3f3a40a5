// What commands work on; guarded by the engine's lock.
#pragma once

#include "table.hpp"
#include "watched_keys.hpp"

namespace kvs {

struct State {
    Table& table;
    Watched& watched;
    std::uint64_t& revision;
};

}  // namespace kvs

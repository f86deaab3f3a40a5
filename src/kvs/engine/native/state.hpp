// The state of the engine that commands change. The engine's lock guards all of it.
#pragma once

#include "table.hpp"
#include "watched_keys.hpp"

namespace kvs {

struct EngineState {
    Table& table;
    WatchedKeys& watched_keys;
    std::uint64_t& revision;
};

}  // namespace kvs

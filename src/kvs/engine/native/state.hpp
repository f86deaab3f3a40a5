// The state of the engine that commands change. The engine's lock guards all of it.
#pragma once

#include <memory>

#include "table.hpp"
#include "watched_keys.hpp"

namespace kvs {

struct EngineState {
    Table& table;
    WatchedKeys& watched_keys;
    std::uint64_t& revision;
    // Holds `table`, and may be given an empty one for later commands; the caller holds `table`
    // too. Null if another call of the thread uses the table.
    std::shared_ptr<Table>* table_holder;
};

}  // namespace kvs

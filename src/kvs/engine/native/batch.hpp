// A batch of lines of a script: read and parsed together, and executed under one hold of the
// engine's lock. Used by one thread.
//
// A caller calls `read` and `prefetch` without the lock, `execute` under it, and `write` without
// it. So parsing, hashing and formatting, which take most of the time, run in parallel. Every
// allocation is made before the lock is taken, but for those of the table and of changes.
#pragma once

#include <algorithm>
#include <cassert>
#include <optional>
#include <vector>

#include "grammar.hpp"
#include "long_line.hpp"
#include "output_format.hpp"
#include "state.hpp"

namespace kvs {

struct Line {
    Kind kind;
    const char* begin;
    const char* end;
    std::size_t first_key;  // index in the words of the batch
    std::size_t key_count;
    std::size_t first_value;  // of a WRITE in the words of the batch, of a READ in its `values_`
};

class LineBatch {
public:
    explicit LineBatch(LineParser parser, std::string_view help) : parser_(parser), help_(help) {}

    // Parse lines up to `end`, or up to a WAIT, SHOW or BACKUP, or until the batch is full. A line
    // of too many words is a batch of its own. Throws std::bad_alloc; the caller may retry with a
    // smaller `max_lines`.
    void read(const char* at, const char* end, std::size_t max_lines = MAX_LINES) {
        lines_.clear();
        words_.truncate({0, 0});
        long_.reset();
        stop_ = Kind::IDLE;
        std::size_t commands = 0, value_count = 0;
        max_output_bytes_ = 0;
        while (at != end && commands < MAX_COMMANDS && words_.keys.size() < MAX_WORDS &&
               lines_.size() < max_lines && stop_ == Kind::IDLE) {
            Line line{Kind::IDLE, at, at, words_.keys.size(), 0, words_.values.size()};
            try {
                line.kind = parser_.parse_line(at, words_);
            } catch (const CapacityExceeded&) {
                words_.truncate({line.first_key, line.first_value});
                if (lines_.empty()) read_long(line);
                break;
            }
            line.end = at = parser_.next();
            line.key_count = words_.keys.size() - line.first_key;
            if (line.kind == Kind::READ) {
                line.first_value = value_count;
                value_count += line.key_count;
                sort_keys(&words_.keys[line.first_key], line.key_count);
            }
            classify_line(line, commands);
            lines_.push_back(line);
        }
        if (values_.size() < value_count) values_.resize(value_count);
        changed_lines_.clear();
        changed_lines_.reserve(lines_.size());
    }

    // Without the lock: load what the commands will read into the cache, and set the slot hints.
    void prefetch(const Table& table) {
        const std::size_t count = std::min(words_.keys.size(), MAX_PREFETCHED);
        for (std::size_t i = 0; i < count; ++i) table.prefetch_slot(words_.keys[i].hash);
        for (std::size_t i = 0; i < count; ++i) table.prefetch_record(words_.keys[i]);
    }

    // To be called if the engine's table was replaced since `prefetch`.
    void clear_slot_hints() {
        for (Key& key : words_.keys) key.slot_hint = nullptr;
    }

    // Execute lines, under the lock, to the last one or until the output is over `output_budget`
    // bytes. Append the changes of watched keys to `changes`, and the output of a long READ to
    // `out`. Return false if a command had too little memory: it has changed nothing, and no line
    // after it is executed.
    bool execute(EngineState state, long long& output_budget, std::vector<Change>* changes,
                 Buffer& out) {
        executed_count_ = 0;
        if (long_) return execute_long(state, output_budget, changes, out);
        for (Line& line : lines_) {
            const std::size_t changes_before = changes ? changes->size() : 0;
            try {
                output_budget -= static_cast<long long>(execute_line(state, line, changes));
            } catch (const std::bad_alloc&) {
                if (changes) changes->resize(changes_before);
                return false;
            }
            ++executed_count_;
            if (output_budget < 0) break;
        }
        return true;
    }

    const std::vector<Line>& lines() const { return lines_; }
    // Return whether the last line is a SHOW.
    bool ends_in_show() const { return stop_ == Kind::SHOW; }

    // Count the line of the batch, a READ, as not executed.
    void undo_read() {
        assert(long_ && executed_count_ == 1 && changed_lines_.empty());
        executed_count_ = 0;
    }

    // Of the executed lines:

    std::size_t executed_count() const { return executed_count_; }
    // The WAIT, SHOW or BACKUP at the end, which the caller has to execute; else IDLE.
    Kind stop() const { return executed_count_ == lines_.size() ? stop_ : Kind::IDLE; }
    std::uint64_t wait_ms() const { return parser_.wait_ms(); }
    // Indexes of the lines that changed something.
    const std::vector<std::size_t>& changed_lines() const { return changed_lines_; }

    // Of all lines: the maximum bytes that `write` appends, and the bytes of the lines.
    std::size_t max_output_bytes() const { return max_output_bytes_; }
    std::size_t script_bytes() const {
        return lines_.empty() ? 0 : std::size_t(lines_.back().end - lines_.front().begin);
    }

    // Append the output of the executed lines, for which space is reserved.
    void write(Buffer& out) {
        [[maybe_unused]] const std::size_t size_before = out.size();
        if (long_ && executed_count_) return long_->write(out);
        for (std::size_t i = 0; i < executed_count_; ++i) {
            const Line& line = lines_[i];
            if (line.kind == Kind::READ) write_read(line, out);
            if (line.kind == Kind::DELETE) write_missing(line, out);
            if (line.kind == Kind::HELP) out.append(help_);
        }
        assert(out.size() - size_before <= max_output_bytes_);
    }

    // The end of the last valid item of the list in a long line; null if there is none.
    const char* valid_until() const { return long_ ? long_->valid_until() : nullptr; }

private:
    static constexpr std::size_t MAX_COMMANDS = 32;  // that read or write keys
    static constexpr std::size_t MAX_WORDS = 1024;   // keys after which the batch ends
    static constexpr std::size_t MAX_LINES = 1024;
    static constexpr std::size_t MAX_PREFETCHED = 512;  // keys

    void read_long(Line& line) {
        long_.emplace(parser_);
        line.kind = long_->read(line.begin);
        line.end = long_->next();
        max_output_bytes_ = long_->max_output_bytes();
        lines_.push_back(line);
    }

    bool execute_long(EngineState& state, long long& output_budget, std::vector<Change>* changes,
                      Buffer& out) {
        const std::size_t changes_before = changes ? changes->size() : 0;
        try {
            output_budget -= static_cast<long long>(long_->execute(state, out, changes));
        } catch (const std::bad_alloc&) {
            if (changes) changes->resize(changes_before);
            return false;
        }
        executed_count_ = 1;
        if (long_->has_changed()) record_change(state, lines_.front());
        return true;
    }

    void classify_line(Line& line, std::size_t& commands) {
        switch (line.kind) {
        case Kind::READ:
        case Kind::DELETE:
            max_output_bytes_ += LINE_BYTES + line.key_count * MAX_PAIR_BYTES;
            ++commands;
            break;
        case Kind::HELP: max_output_bytes_ += help_.size(); break;
        case Kind::WRITE: ++commands; break;
        case Kind::WAIT:
            if (parser_.wait_ms()) stop_ = line.kind;
            break;
        case Kind::SHOW:
        case Kind::BACKUP: stop_ = line.kind; break;
        case Kind::IDLE:
        case Kind::INVALID: break;
        }
    }

    // Execute one line; return the bytes of its output.
    std::size_t execute_line(EngineState& state, Line& line, std::vector<Change>* changes) {
        switch (line.kind) {
        case Kind::WRITE: return write_pairs(state, line, changes);
        case Kind::READ: return read_keys(state, line);
        case Kind::DELETE: return erase_keys(state, line, changes);
        case Kind::HELP: return help_.size();
        default: return 0;
        }
    }

    std::size_t write_pairs(EngineState& state, const Line& line, std::vector<Change>* changes) {
        const Key* const keys = &words_.keys[line.first_key];
        const Word* const values = &words_.values[line.first_value];
        state.table.reserve(keys, line.key_count);
        if (changes) {
            state.watched_keys.begin_command();
            state.watched_keys.collect_writes(keys, values, line.key_count, *changes);
        }
        for (std::size_t i = 0; i < line.key_count; ++i)
            state.table.insert_or_assign(keys[i], values[i]);
        record_change(state, line);
        return 0;
    }

    std::size_t read_keys(EngineState& state, const Line& line) {
        std::size_t bytes = LINE_BYTES;
        const Key* const keys = &words_.keys[line.first_key];
        for (std::size_t i = 0; i < line.key_count; ++i) {
            Value& value = values_[line.first_value + i];
            if (const RecordId id = state.table.find(keys[i])) {
                state.table.records()[id].copy_value(value);
            } else {
                value.set(MISSING_VALUE);
            }
            bytes += pair_bytes(std::size_t(keys[i].size) + value.size);
        }
        return bytes;
    }

    std::size_t erase_keys(EngineState& state, const Line& line, std::vector<Change>* changes) {
        Key* const keys = &words_.keys[line.first_key];
        if (changes) {
            state.watched_keys.begin_command();
            state.watched_keys.collect_removals(
                keys, line.key_count, *changes,
                [&](const Key& key) { return state.table.find(key) != 0; });
        }
        std::size_t bytes = 0, missing = 0;
        for (std::size_t i = 0; i < line.key_count; ++i) {
            keys[i].missing = !state.table.erase(keys[i]);
            missing += keys[i].missing;
            if (keys[i].missing) bytes += pair_bytes(keys[i].size + MISSING_KEY.size());
        }
        if (missing < line.key_count) record_change(state, line);
        return missing ? bytes + LINE_BYTES : 0;
    }

    void record_change(EngineState& state, const Line& line) {
        assert(changed_lines_.size() <
               changed_lines_.capacity());  // must not allocate under the lock
        ++state.revision;
        changed_lines_.push_back(std::size_t(&line - lines_.data()));
    }

    void write_read(const Line& line, Buffer& out) const {
        out.append('[');
        for (std::size_t i = 0; i < line.key_count; ++i) {
            const Value& value = values_[line.first_value + i];
            append_pair(out, words_.keys[line.first_key + i].view(), {value.bytes, value.size});
        }
        out.append("]\n");
    }

    void write_missing(const Line& line, Buffer& out) {
        Key* const begin = &words_.keys[line.first_key];
        Key* const end = std::remove_if(begin, begin + line.key_count,
                                        [](const Key& key) { return !key.missing; });
        if (begin == end) return;
        sort_keys(begin, std::size_t(end - begin));
        out.append('[');
        for (const Key* key = begin; key != end; ++key) append_pair(out, key->view(), MISSING_KEY);
        out.append("]\n");
    }

    LineParser parser_;
    const std::string_view help_;
    std::vector<Line> lines_;
    Words words_;
    std::optional<LongLine> long_;
    std::vector<Value> values_;
    std::vector<std::size_t> changed_lines_;
    Kind stop_ = Kind::IDLE;
    std::size_t executed_count_ = 0;
    std::size_t max_output_bytes_ = 0;
};

}  // namespace kvs

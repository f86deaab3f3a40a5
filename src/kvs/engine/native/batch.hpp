// A batch of lines of a script: read and parsed together, and executed under one hold of the
// engine's lock. Used by one thread.
//
// A caller calls `read` and `prefetch` without the lock, `execute` under it, and `write` without
// it. So parsing, hashing and formatting, which take most of the time, run in parallel. Allocations
// are made before the lock is taken, but for those of the table, of changes, and of values that are
// not short.
//
// `LineParser` parses most lines, and their commands are executed here. The lines that it refuses
// are parsed and executed by `GeneralLines`, if they are valid at all.
#pragma once

#include <algorithm>
#include <cassert>
#include <memory>
#include <optional>
#include <vector>

#include "general_line.hpp"
#include "grammar.hpp"
#include "long_line.hpp"
#include "output_format.hpp"
#include "state.hpp"

namespace kvs {

struct Line {
    Kind kind;
    bool is_general;  // whether it is in the general lines of the batch
    Fault fault;      // why it is invalid
    const char* begin;
    const char* end;
    std::size_t first_key;  // index in the words of the batch
    std::size_t key_count;
    // Of a WRITE in the words of the batch, of a READ in its `values_`; the number of a general
    // line.
    std::size_t first_value;
};

class LineBatch {
public:
    // Without `has_limits`, lines and their outputs may have any length.
    LineBatch(LineParser parser, std::string_view help, bool has_limits)
        : parser_(parser),
          help_(help),
          max_line_bytes_(has_limits ? MAX_LINE_BYTES : ~std::size_t(0)),
          max_output_line_bytes_(has_limits ? MAX_LINE_OUTPUT_BYTES : ~std::size_t(0)) {}

    // Parse lines up to `end`, or up to a WAIT, SHOW or BACKUP, or until the batch is full. A line
    // of too many words is a batch of its own. Throws std::bad_alloc; the caller may retry with a
    // smaller `max_lines`.
    void read(const char* at, const char* end, std::size_t max_lines = MAX_LINES) {
        lines_.clear();
        words_.truncate({0, 0});
        long_.reset();
        if (general_) general_->clear();
        captured_.truncate(0);
        stop_ = Kind::IDLE;
        std::size_t commands = 0, value_count = 0;
        max_output_bytes_ = 0;
        while (at != end && commands < MAX_COMMANDS && words_.keys.size() < MAX_WORDS &&
               lines_.size() < max_lines && stop_ == Kind::IDLE) {
            Line line{Kind::IDLE,         false, Fault::SYNTAX,       at, at,
                      words_.keys.size(), 0,     words_.values.size()};
            try {
                line.kind = parser_.parse_line(at, words_);
            } catch (const CapacityExceeded&) {
                words_.truncate({line.first_key, line.first_value});
                if (lines_.empty()) read_long(line);
                break;
            }
            line.end = at = parser_.next();
            if (__builtin_expect(line.kind == Kind::INVALID, false)) read_general(line);
            line.key_count = words_.keys.size() - line.first_key;
            if (line.kind == Kind::READ) {
                line.first_value = value_count;
                value_count += line.key_count;
                sort_keys(&words_.keys[line.first_key], line.key_count);
            }
            classify_line(line, commands);
            lines_.push_back(line);
        }
        if (script_bytes() > max_line_bytes_) refuse_long_lines();
        if (values_.size() < value_count) values_.resize(value_count);
        changed_lines_.clear();
        changed_lines_.reserve(lines_.size());
    }

    // Without the lock: load what the commands will read into the cache, and set the slot hints.
    void prefetch(const Table& table) {
        const std::size_t count = std::min(words_.keys.size(), MAX_PREFETCHED);
        for (std::size_t i = 0; i < count; ++i) table.prefetch_slot(words_.keys[i].hash);
        for (std::size_t i = 0; i < count; ++i) table.prefetch_record(words_.keys[i]);
        if (general_) general_->prefetch(table, MAX_PREFETCHED);
    }

    // To be called if the engine's table was replaced since `prefetch`.
    void clear_slot_hints() {
        for (Key& key : words_.keys) key.slot_hint = nullptr;
        if (general_) general_->clear_slot_hints();
    }

    // Execute lines, under the lock, to the last one or until the output is over `output_budget`
    // bytes. Append the changes of watched keys to `changes`, and the output of a long READ to
    // `out`. Return false if a command had too little memory: it has changed nothing, and no line
    // after it is executed. For values that are not short, more of `space` is reserved.
    bool execute(EngineState state, long long& output_budget, std::vector<Change>* changes,
                 TextSpace& space, Buffer& out) {
        executed_count_ = 0;
        if (long_) return execute_long(state, output_budget, changes, out);
        for (Line& line : lines_) {
            const std::size_t changes_before = changes ? changes->size() : 0;
            try {
                output_budget -= static_cast<long long>(execute_line(state, line, changes, space));
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
    // The arguments of that SHOW.
    DumpQuery query() const {
        return lines_.back().is_general ? general_->query(lines_.back().first_value) : DumpQuery();
    }

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

    // Of all lines: the maximum bytes that `write` appends, but for what `execute` reserves space
    // for, and that `write_record` appends.
    std::size_t max_output_bytes() const { return max_output_bytes_; }
    std::size_t max_record_bytes() const {
        // A line that is recorded as it is written, or a DELETE, may get a blank and a newline.
        return script_bytes() + 2 * lines_.size() + (general_ ? general_->max_record_bytes() : 0);
    }
    // The maximum bytes of the output of a line.
    std::size_t max_output_line_bytes() const { return max_output_line_bytes_; }

    // Append the lines that the journal records, for which space is reserved. Before `write`.
    void write_record(Buffer& out) {
        for (const std::size_t number : changed_lines_) {
            const Line& line = lines_[number];
            if (line.is_general && !general_->is_recorded_as_written(line.first_value)) {
                general_->write_record(line.first_value, out);
            } else if (line.kind == Kind::DELETE) {
                long_ ? long_->write_record(out) : write_removed(line, out);
            } else {
                out.append({line.begin, std::size_t(line.end - line.begin)});
                // The last line of a script may end without a newline.
                if (line.end[-1] != '\n') out.append('\n');
            }
        }
    }

    // Append the output of the executed lines, for which space is reserved.
    void write(Buffer& out) {
        if (long_ && executed_count_) return long_->write(out);
        for (std::size_t i = 0; i < executed_count_; ++i) {
            const Line& line = lines_[i];
            switch (line.kind) {
            case Kind::READ: write_read(line, out); break;
            case Kind::DELETE: write_missing(line, out); break;
            case Kind::HELP: out.append(help_); break;
            case Kind::STEPS:
            case Kind::COUNT:
            case Kind::CLEAR: general_->write(line.first_value, out); break;
            default: break;
            }
        }
    }

    // The end of the last valid item of the list in a long line; null if there is none.
    const char* valid_until() const { return long_ ? long_->valid_until() : nullptr; }

private:
    std::size_t script_bytes() const {
        return lines_.empty() ? 0 : std::size_t(lines_.back().end - lines_.front().begin);
    }

    static constexpr std::size_t MAX_COMMANDS = 32;  // that read or write keys
    static constexpr std::size_t MAX_WORDS = 1024;   // keys after which the batch ends
    static constexpr std::size_t MAX_LINES = 1024;
    static constexpr std::size_t MAX_PREFETCHED = 512;  // keys
    // The size of a value that is in `captured_`; its bytes are its number there.
    static constexpr std::uint8_t CAPTURED = 255;

    // Read a line of too many words.
    void read_long(Line& line) {
        const void* newline =
            std::memchr(line.begin, '\n', std::size_t(parser_.end() - line.begin));
        line.end = newline ? static_cast<const char*>(newline) + 1 : parser_.end();
        if (is_too_long(line.begin, line.end, max_line_bytes_)) {
            refuse(line, Fault::LINE_BYTES);
        } else {
            long_.emplace(parser_, max_output_line_bytes_);
            line.kind = long_->read(line.begin);
            max_output_bytes_ = long_->max_output_bytes();
            // An output that may be too long must be known before anything changes.
            if (line.kind == Kind::INVALID || max_output_bytes_ > max_output_line_bytes_) {
                read_general(line);
                if (line.is_general) {
                    long_.reset();
                    max_output_bytes_ = 0;
                }
            }
        }
        lines_.push_back(line);
    }

    // Make lines that are too long invalid.
    __attribute__((noinline, cold)) void refuse_long_lines() {
        for (Line& line : lines_) {
            if (line.kind == Kind::IDLE || !is_too_long(line.begin, line.end, max_line_bytes_))
                continue;
            refuse(line, Fault::LINE_BYTES);
            if (&line == &lines_.back()) stop_ = Kind::IDLE;
        }
    }

    // Let `GeneralLines` read a line that `parser_` has refused. The line stays as it is if it is
    // not valid, or too long.
    __attribute__((noinline, cold)) void read_general(Line& line) {
        if (is_too_long(line.begin, line.end, max_line_bytes_)) return;
        if (!general_) general_ = std::make_unique<GeneralLines>(parser_.hasher().hash_key());
        const Kind kind = general_->parse(line.begin, end_without_ending(line.begin, line.end));
        if (kind == Kind::INVALID) return;
        line.kind = kind;
        line.is_general = true;
        line.first_value = general_->size() - 1;
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
        if (long_->is_refused()) refuse(lines_.front(), Fault::OUTPUT_BYTES);
        if (long_->has_changed()) record_change(state, lines_.front());
        return true;
    }

    // Make a line that has changed nothing an invalid one.
    static void refuse(Line& line, Fault fault) {
        line.kind = Kind::INVALID;
        line.fault = fault;
        line.is_general = false;
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
        case Kind::STEPS: ++commands; break;
        case Kind::COUNT:
        case Kind::CLEAR:
        case Kind::EXPIRE: commands = MAX_COMMANDS; break;  // the batch ends with it
        case Kind::IDLE:
        case Kind::INVALID: break;
        }
    }

    // Execute one line; return the bytes of its output.
    ALWAYS_INLINE std::size_t execute_line(EngineState& state, Line& line, std::vector<Change>* changes,
                             TextSpace& space) {
        switch (line.kind) {
        case Kind::WRITE: return write_pairs(state, line, changes);
        case Kind::READ: return read_keys(state, line, space);
        case Kind::DELETE: return erase_keys(state, line, changes);
        case Kind::HELP: return help_.size();
        case Kind::STEPS:
        case Kind::COUNT:
        case Kind::CLEAR:
        case Kind::EXPIRE: return execute_general(state, line, changes, space);
        default: return 0;
        }
    }

    __attribute__((noinline, cold)) std::size_t execute_general(EngineState& state, Line& line,
                                                                std::vector<Change>* changes,
                                                                TextSpace& space) {
        const Outcome outcome = general_->execute(line.first_value, state, changes, space);
        if (outcome.is_refused) refuse(line, Fault::OUTPUT_BYTES);
        if (outcome.has_changed) record_change(state, line);
        return outcome.output_bytes;
    }

    ALWAYS_INLINE std::size_t write_pairs(EngineState& state, const Line& line, std::vector<Change>* changes) {
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

    ALWAYS_INLINE std::size_t read_keys(EngineState& state, Line& line, TextSpace& space) {
        std::size_t bytes = LINE_BYTES;
        const std::size_t captured_before = captured_.size();
        const Key* const keys = &words_.keys[line.first_key];
        for (std::size_t i = 0; i < line.key_count; ++i) {
            Value& value = values_[line.first_value + i];
            if (const RecordId id = state.table.find(keys[i])) {
                const Record record = state.table.records()[id];
                if (record.is_short())
                    record.copy_value(value);
                else
                    bytes += capture(record, value, bytes);
            } else {
                value.set(MISSING_VALUE);
            }
            bytes += pair_bytes(std::size_t(keys[i].size) + value.size);
        }
        if (captured_.size() != captured_before) {
            if (bytes > max_output_line_bytes_) {
                captured_.truncate(captured_before);
                refuse(line, Fault::OUTPUT_BYTES);
                return 0;
            }
            space.reserve_output(bytes);
        }
        return bytes;
    }

    // Capture the value of an extended record, unless the output has too many bytes already. Return
    // the bytes of its spelling minus `value.size`.
    __attribute__((noinline, cold)) std::size_t capture(const Record& record, Value& value,
                                                        std::size_t output_bytes) {
        const KeyValue captured = KeyValue::of_record(record.value());
        const std::size_t number = captured_.size();
        // Beyond the maximum, one more is captured, so that the line is seen to be too long.
        if (output_bytes <= max_output_line_bytes_) captured_.add(captured);
        std::memcpy(value.bytes, &number, sizeof number);
        value.size = CAPTURED;
        return captured.spelled_size() - CAPTURED;
    }

    ALWAYS_INLINE std::size_t erase_keys(EngineState& state, const Line& line, std::vector<Change>* changes) {
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
            const std::string_view key = words_.keys[line.first_key + i].view();
            if (value.size != CAPTURED)
                append_pair(out, key, {value.bytes, value.size});
            else
                write_captured(key, value, out);
        }
        out.append("]\n");
    }

    __attribute__((noinline, cold)) void write_captured(std::string_view key, const Value& value,
                                                        Buffer& out) const {
        out.append('(');
        out.append(key);
        out.append(',');
        captured_[load_unaligned<std::size_t>(value.bytes)].append_to(out);
        out.append(')');
    }

    // Append the record of a DELETE: the keys that were there.
    void write_removed(const Line& line, Buffer& out) const {
        out.append("DELETE ");
        char before = '[';
        for (std::size_t i = line.first_key; i < line.first_key + line.key_count; ++i) {
            if (words_.keys[i].missing) continue;
            out.append(before);
            out.append_word(words_.keys[i].view());
            before = ',';
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
    const std::size_t max_line_bytes_;         // of a line without its ending
    const std::size_t max_output_line_bytes_;  // of the output of a line
    std::vector<Line> lines_;
    Words words_;
    std::unique_ptr<GeneralLines> general_;  // created with the first general line
    CapturedValues captured_;                // of READs
    std::optional<LongLine> long_;
    std::vector<Value> values_;
    std::vector<std::size_t> changed_lines_;
    Kind stop_ = Kind::IDLE;
    std::size_t executed_count_ = 0;
    std::size_t max_output_bytes_ = 0;
};

}  // namespace kvs

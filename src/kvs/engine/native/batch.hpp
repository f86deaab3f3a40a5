// Some lines of a script, read together, so that the lock is taken once for all of them. Used by one
// thread. The order: `read`, `prefetch`; under the lock `carry_out`; then `write`.
#pragma once

#include <algorithm>
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
    std::size_t key;  // where its keys begin in the words of the batch,
    std::size_t keys;
    std::size_t value;  // and its values: of a WRITE there, of a READ what was found
};

class Batch {
public:
    explicit Batch(Grammar grammar, std::string_view help) : grammar_(grammar), help_(help) {}

    // Read lines up to `end`, to a line that only others can carry out, or until it is a batch. A
    // line of too many words is a batch of its own. Throws std::bad_alloc; then fewer lines at a
    // time, `most`, may do.
    void read(const char* at, const char* end, std::size_t most = LINES) {
        lines_.clear();
        words_.cut({0, 0});
        long_.reset();
        stop_ = Kind::IDLE;
        std::size_t commands = 0, found = 0;
        most_output_ = 0;
        while (at != end && commands < COMMANDS && words_.keys.size() < WORDS &&
               lines_.size() < most && stop_ == Kind::IDLE) {
            Line line{Kind::IDLE, at, at, words_.keys.size(), 0, words_.values.size()};
            try {
                line.kind = grammar_.line(at, words_);
            } catch (const ArrayFull&) {
                words_.cut({line.key, line.value});
                if (lines_.empty()) read_long(line);
                break;
            }
            line.end = at = grammar_.next();
            line.keys = words_.keys.size() - line.key;
            if (line.kind == Kind::READ) {
                line.value = found;
                found += line.keys;
                sort_keys(&words_.keys[line.key], line.keys);
            }
            note(line, commands);
            lines_.push_back(line);
        }
        if (found_.size() < found) found_.resize(found);
        changed_.clear();
        changed_.reserve(lines_.size());
    }

    // Bring what the commands will look at into the cache, and note where it is, without the lock.
    void prefetch(const Table& table) {
        const std::size_t count = std::min(words_.keys.size(), PREFETCHED);
        for (std::size_t i = 0; i < count; ++i) table.prefetch_slot(words_.keys[i].hash);
        for (std::size_t i = 0; i < count; ++i) table.prefetch_record(words_.keys[i]);
    }

    // There is another table now.
    void forget_seen() {
        for (Key& key : words_.keys) key.seen = nullptr;
    }

    // Carry out lines, under the lock, until they or `room` bytes of output are at their end; put
    // the changes of watched keys behind `changes`, and what a long READ writes behind `out`. Return
    // false if memory was not enough for a command: it has changed nothing, and those behind it are
    // not carried out.
    bool carry_out(State state, long long& room, std::vector<Change>* changes, Buffer& out) {
        done_ = 0;
        if (long_) return carry_out_long(state, room, changes, out);
        for (Line& line : lines_) {
            const std::size_t told = changes ? changes->size() : 0;
            try {
                room -= static_cast<long long>(carry_out(state, line, changes));
            } catch (const std::bad_alloc&) {
                if (changes) changes->resize(told);
                return false;
            }
            ++done_;
            if (room < 0) break;
        }
        return true;
    }

    const std::vector<Line>& lines() const { return lines_; }
    // Whether they come to a SHOW, if all are carried out.
    bool shows() const { return stop_ == Kind::SHOW; }

    // Say that a READ, alone in the batch, was not carried out after all.
    void take_back() { done_ = 0; }

    // Of the lines carried out.

    std::size_t done() const { return done_; }
    // What stopped the batch, for others to carry out; IDLE if nothing did.
    Kind stop() const { return done_ == lines_.size() ? stop_ : Kind::IDLE; }
    std::uint64_t milliseconds() const { return grammar_.milliseconds(); }
    // Those that changed something, by number.
    const std::vector<std::size_t>& changed() const { return changed_; }

    // At most so much is what `write` puts, and what all lines of it are.
    std::size_t most_output() const { return most_output_; }
    std::size_t bytes() const {
        return lines_.empty() ? 0 : std::size_t(lines_.back().end - lines_.front().begin);
    }

    // Put what the commands wrote behind `out`, where there is room.
    void write(Buffer& out) {
        if (long_ && done_) return long_->write(out);
        for (std::size_t i = 0; i < done_; ++i) {
            const Line& line = lines_[i];
            if (line.kind == Kind::READ) write_read(line, out);
            if (line.kind == Kind::DELETE) write_missing(line, out);
            if (line.kind == Kind::HELP) out.put(help_);
        }
    }

    // The end of the last good item of the list in a long line; null if there is none.
    const char* good() const { return long_ ? long_->good() : nullptr; }

private:
    static constexpr std::size_t COMMANDS = 32;
    static constexpr std::size_t WORDS = 1024;
    static constexpr std::size_t LINES = 1024;
    static constexpr std::size_t PREFETCHED = 512;

    void read_long(Line& line) {
        long_.emplace(grammar_);
        line.kind = long_->read(line.begin);
        line.end = long_->next();
        most_output_ = long_->max_output();
        lines_.push_back(line);
    }

    bool carry_out_long(State& state, long long& room, std::vector<Change>* changes, Buffer& out) {
        const std::size_t told = changes ? changes->size() : 0;
        try {
            room -= static_cast<long long>(long_->execute(state, out, changes));
        } catch (const std::bad_alloc&) {
            if (changes) changes->resize(told);
            return false;
        }
        done_ = 1;
        if (long_->has_changed()) has_changed(state, lines_.front());
        return true;
    }

    void note(Line& line, std::size_t& commands) {
        switch (line.kind) {
        case Kind::READ:
        case Kind::DELETE:
            most_output_ += LINE_BYTES + line.keys * MOST_PAIR_BYTES;
            ++commands;
            break;
        case Kind::HELP: most_output_ += help_.size(); break;
        case Kind::WRITE: ++commands; break;
        case Kind::WAIT:
            if (grammar_.milliseconds()) stop_ = line.kind;
            break;
        case Kind::SHOW:
        case Kind::BACKUP: stop_ = line.kind; break;
        case Kind::IDLE:
        case Kind::INVALID: break;
        }
    }

    // Return how much it writes.
    std::size_t carry_out(State& state, Line& line, std::vector<Change>* changes) {
        switch (line.kind) {
        case Kind::WRITE: return write_pairs(state, line, changes);
        case Kind::READ: return read_keys(state, line);
        case Kind::DELETE: return remove_keys(state, line, changes);
        case Kind::HELP: return help_.size();
        default: return 0;
        }
    }

    std::size_t write_pairs(State& state, const Line& line, std::vector<Change>* changes) {
        const Key* const keys = &words_.keys[line.key];
        const Word* const values = &words_.values[line.value];
        state.table.make_room(keys, line.keys);
        if (changes) {
            state.watched.begin_command();
            state.watched.put_writes(keys, values, line.keys, *changes);
        }
        for (std::size_t i = 0; i < line.keys; ++i) state.table.put(keys[i], values[i]);
        has_changed(state, line);
        return 0;
    }

    std::size_t read_keys(State& state, const Line& line) {
        std::size_t bytes = LINE_BYTES;
        const Key* const keys = &words_.keys[line.key];
        for (std::size_t i = 0; i < line.keys; ++i) {
            Value& value = found_[line.value + i];
            if (const Ref ref = state.table.find(keys[i])) {
                state.table.records()[ref].copy_value(value);
            } else {
                value.set(MISSING_VALUE);
            }
            bytes += pair_bytes(std::size_t(keys[i].size) + value.size);
        }
        return bytes;
    }

    std::size_t remove_keys(State& state, const Line& line, std::vector<Change>* changes) {
        Key* const keys = &words_.keys[line.key];
        if (changes) {
            state.watched.begin_command();
            state.watched.put_removals(keys, line.keys, *changes,
                                       [&](const Key& key) { return state.table.find(key) != 0; });
        }
        std::size_t bytes = 0, missing = 0;
        for (std::size_t i = 0; i < line.keys; ++i) {
            keys[i].missing = !state.table.remove(keys[i]);
            missing += keys[i].missing;
            if (keys[i].missing) bytes += pair_bytes(keys[i].size + MISSING_KEY.size());
        }
        if (missing < line.keys) has_changed(state, line);
        return missing ? bytes + LINE_BYTES : 0;
    }

    void has_changed(State& state, const Line& line) {
        ++state.revision;
        changed_.push_back(std::size_t(&line - lines_.data()));
    }

    void write_read(const Line& line, Buffer& out) const {
        out.put('[');
        for (std::size_t i = 0; i < line.keys; ++i) {
            const Value& value = found_[line.value + i];
            put_pair(out, words_.keys[line.key + i].view(), {value.bytes, value.size});
        }
        out.put("]\n");
    }

    void write_missing(const Line& line, Buffer& out) {
        Key* const begin = &words_.keys[line.key];
        Key* const end =
            std::remove_if(begin, begin + line.keys, [](const Key& key) { return !key.missing; });
        if (begin == end) return;
        sort_keys(begin, std::size_t(end - begin));
        out.put('[');
        for (const Key* key = begin; key != end; ++key) put_pair(out, key->view(), MISSING_KEY);
        out.put("]\n");
    }

    Grammar grammar_;
    const std::string_view help_;
    std::vector<Line> lines_;
    Words words_;
    std::optional<LongLine> long_;
    std::vector<Value> found_;
    std::vector<std::size_t> changed_;
    Kind stop_ = Kind::IDLE;
    std::size_t done_ = 0;
    std::size_t most_output_ = 0;
};

}  // namespace kvs

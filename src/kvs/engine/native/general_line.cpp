#include "general_line.hpp"

#include <ctime>

namespace kvs {

namespace {

constexpr std::size_t LINEAR_KEYS = 16;  // of a line, up to which they are searched one by one
constexpr std::size_t VALIDATED_BYTES = 1 << 16;  // of a line that is validated before it is stored
constexpr std::size_t PREFETCHED_KEYS = 128;      // of a line of more keys, at a time
constexpr std::size_t BLOCK_BYTES = 1 << 12;
constexpr std::size_t OVERREAD_BYTES = 16;  // behind a word in a block, which may be read
constexpr std::uint64_t MAX_UNTIL = 999'999'999'999'999;  // that UNTIL can express
constexpr std::string_view NOT = "NOT ";
constexpr std::string_view LONGEST_UNTIL = "] UNTIL 999999999999999 DELETE [";

std::size_t count(const Table& table, const PrefixSet& prefixes) {
    if (prefixes.has_all()) return table.size();
    std::size_t number = 0;
    for (const Span& span : table.records().spans())
        Records::for_each(
            span, [&](const char* at) { number += prefixes.matches_record_key(key_at(at)); });
    return number;
}

std::uint64_t now_ms() {
    timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return std::uint64_t(now.tv_sec) * 1000 + std::uint64_t(now.tv_nsec) / 1'000'000;
}

}  // namespace

// A sink that adds the parts of a valid line.
class LineBuilder {
public:
    LineBuilder(GeneralLines& lines, GeneralLines::Line& line) : lines_(lines), line_(line) {}

    void begin(Kind kind) { line_.kind = kind; }

    void begin_step(StepKind kind) {
        lines_.steps_.push_uninitialized() = {kind, ExpiryForm::NONE,    0, lines_.pairs_.size(),
                                              0,    lines_.runs_.size(), 0};
    }

    void end_step(ExpiryForm expiry, std::uint64_t ms) {
        GeneralLines::Step& step = this->step();
        step.expiry = expiry;
        step.ms = ms;
        step.end_pair = lines_.pairs_.size();
        step.end_run = lines_.runs_.size();
        line_.has_for |= expiry == ExpiryForm::FOR;
        const auto* const keys = lines_.keys_.begin();
        std::sort(lines_.runs_.begin() + step.first_run, lines_.runs_.end(),
                  [keys](const GeneralLines::Run& left, const GeneralLines::Run& right) {
                      if (left.sort_prefix != right.sort_prefix)
                          return left.sort_prefix < right.sort_prefix;
                      return keys[left.key].key.view() < keys[right.key].key.view();
                  });
    }

    void add_key(const Spelling& spelling) { name(lines_.add_key(line_, spelling), 1); }

    void add_pair(const Spelling& spelling, const Spelling& value_spelling) {
        const std::uint32_t key = lines_.add_key(line_, spelling);
        const Word word = lines_.unquoted(value_spelling);
        const bool is_plain = !value_spelling.is_quoted || is_plain_value(word.view());
        KeyValue value{KeyValue::State::WORD, is_plain, false, word.size, {word.at}, nullptr};
        if (word.size > MAX_INLINE_VALUE && step().kind == StepKind::WRITE) {
            lines_.large_values_.reserve(lines_.large_values_.size() + 1);
            value.large = LargeValue::create(word.view(), is_plain);
            lines_.large_values_.push_back(value.large);
            value.at = value.large->data();
        }
        lines_.pairs_.push_uninitialized() = {key, value};
        name(key, value.spelled_size());
    }

    void add_missing(const Spelling& spelling) {
        const std::uint32_t key = lines_.add_key(line_, spelling);
        lines_.pairs_.push_uninitialized() = {key, KeyValue::missing()};
        name(key, 0);
    }

    void add_number(const Spelling& spelling, std::int64_t number) {
        const std::uint32_t key = lines_.add_key(line_, spelling);
        lines_.pairs_.push_uninitialized() = {key, KeyValue::of_number(number)};
        name(key, MAX_NUMBER_BYTES);
    }

    void add_prefix(const Spelling& spelling) {
        const Word word = lines_.unquoted(spelling);
        lines_.prefixes_.push_back(word);
        const bool is_plain = !spelling.is_quoted || is_plain_word(word.view());
        line_.record_bytes += 1 + spelled_size(word.view(), is_plain);
    }

    void set_after(const Spelling& spelling) {
        line_.has_after = true;
        line_.after = lines_.unquoted(spelling);
    }

    void set_limit(std::uint64_t limit) { line_.limit = limit; }
    void set_expiries() { line_.shows_expiries = true; }
    void set_milliseconds(std::uint64_t ms) { line_.ms = ms; }

private:
    GeneralLines::Step& step() { return lines_.steps_[lines_.steps_.size() - 1]; }

    // Add a key to the step, with a value that has `value_bytes` bytes in a record.
    void name(std::uint32_t number, std::size_t value_bytes) {
        const StepKind kind = step().kind;
        GeneralLines::LineKey& key = lines_.keys_[number];
        if (kind != StepKind::WRITE) {
            const std::uint32_t this_step = std::uint32_t(lines_.steps_.size());
            if (key.step == this_step) {
                ++lines_.runs_[key.run].times;
            } else {
                key.step = this_step;
                key.run = std::uint32_t(lines_.runs_.size());
                lines_.runs_.push_uninitialized() = {key.key.sort_prefix, number, 1};
            }
        }
        if (kind == StepKind::READ || kind == StepKind::IF) return;
        line_.record_bytes += pair_bytes(key.spelled_size + value_bytes);
        if (key.is_changed) return;
        key.is_changed = true;
        lines_.changed_.push_uninitialized() = number;
        line_.record_bytes += LONGEST_UNTIL.size();
    }

    GeneralLines& lines_;
    GeneralLines::Line& line_;
};

void insert_pair(Table& table, const Key& key, const Word& value, std::uint64_t until) {
    LargeValueRef large;
    const bool is_plain = is_plain_value(value.view());
    if (value.size > MAX_INLINE_VALUE)
        large = LargeValueRef(LargeValue::create(value.view(), is_plain));
    const NewValue new_value{value, is_plain, large.get(), until};
    table.reserve(&key, &new_value, 1);
    table.insert_or_assign(key, new_value);
}

GeneralLines::GeneralLines(HashKey hash_key) : hash_key_(hash_key) {}

GeneralLines::~GeneralLines() { clear(); }

void GeneralLines::clear() {
    captured_.truncate(0);
    for (LargeValue* value : large_values_) value->release();
    large_values_.clear();
    lines_.truncate(0);
    max_record_bytes_ = 0;
    steps_.truncate(0);
    keys_.truncate(0);
    pairs_.truncate(0);
    runs_.truncate(0);
    changed_.truncate(0);
    prefixes_.clear();
    removal_.clear();
    blocks_.clear();
    block_at_ = nullptr;
    block_bytes_ = 0;
}

Kind GeneralLines::parse(const char* at, const char* end) {
    // A long line takes memory only if it is valid.
    if (std::size_t(end - at) > VALIDATED_BYTES && !is_valid_general_line(at, end))
        return Kind::INVALID;
    Line line{};
    line.first_key = keys_.size();
    line.first_step = steps_.size();
    line.first_changed = changed_.size();
    line.first_prefix = prefixes_.size();
    line.limit = ~std::uint64_t(0);
    line.record_bytes = LONGEST_UNTIL.size();
    line_end_ = end;
    const std::size_t pairs_before = pairs_.size(), runs_before = runs_.size();
    LineBuilder builder(*this, line);
    if (!GeneralParser<LineBuilder>(at, end, builder).parse_line()) {
        keys_.truncate(line.first_key);
        steps_.truncate(line.first_step);
        pairs_.truncate(pairs_before);
        runs_.truncate(runs_before);
        changed_.truncate(line.first_changed);
        prefixes_.resize(line.first_prefix);
        return Kind::INVALID;
    }
    line.end_key = keys_.size();
    line.end_step = steps_.size();
    line.end_changed = changed_.size();
    line.end_prefix = prefixes_.size();
    line.is_plain_write = line.end_step - line.first_step == 1 &&
                          steps_[line.first_step].kind == StepKind::WRITE &&
                          steps_[line.first_step].expiry == ExpiryForm::NONE;
    lines_.push_uninitialized() = line;
    max_record_bytes_ += line.record_bytes;
    return line.kind;
}

// Return the number of a key of the line that is parsed.
std::uint32_t GeneralLines::add_key(Line& line, const Spelling& spelling) {
    const Word word = unquoted(spelling);
    return find_or_add(line, word, !spelling.is_quoted || is_plain_word(word.view()));
}

std::uint32_t GeneralLines::find_or_add(Line& line, const Word& word, bool is_plain) {
    const std::uint64_t hash = siphash13(hash_key_, word.at, word.size);
    const auto is_key = [&](std::size_t number) {
        const Key& key = keys_[number].key;
        return key.hash == hash && key.view() == word.view();
    };
    const std::size_t count = keys_.size() - line.first_key;
    std::uint32_t* place = nullptr;
    if (count < LINEAR_KEYS) {
        for (std::size_t i = line.first_key; i < keys_.size(); ++i)
            if (is_key(i)) return std::uint32_t(i);
    } else {
        if (count == LINEAR_KEYS || 2 * count >= index_.size()) grow_index(line);
        const std::size_t mask = index_.size() - 1;
        std::size_t i = std::size_t(hash) & mask;
        for (; index_[i]; i = (i + 1) & mask)
            if (is_key(index_[i] - 1)) return index_[i] - 1;
        place = &index_[i];
    }
    if (keys_.size() >= ~std::uint32_t(0)) throw std::bad_alloc();
    LineKey& key = keys_.push_uninitialized();
    key = LineKey{};
    key.key.at = word.at;
    key.key.size = word.size;
    key.key.is_plain = is_plain;
    key.key.hash = hash;
    key.key.sort_prefix =
        sip::big_endian(word.size < 8 ? sip::rest(word.at, word.size) : sip::block(word.at, 8));
    key.spelled_size = std::uint32_t(spelled_size(word.view(), is_plain));
    if (place) *place = std::uint32_t(keys_.size());
    return std::uint32_t(keys_.size() - 1);
}

// Make the index of the line's keys, with at least four places for each.
void GeneralLines::grow_index(const Line& line) {
    const std::size_t count = keys_.size() - line.first_key;
    std::size_t size = 4 * LINEAR_KEYS;
    while (size < 4 * count) size *= 2;
    index_.assign(size, 0);
    for (std::size_t number = line.first_key; number < keys_.size(); ++number) {
        std::size_t i = std::size_t(keys_[number].key.hash) & (size - 1);
        while (index_[i]) i = (i + 1) & (size - 1);
        index_[i] = std::uint32_t(number + 1);
    }
}

// Return the word of a spelling: in the script, or unquoted in a block.
Word GeneralLines::unquoted(const Spelling& spelling) {
    const std::uint32_t size = std::uint32_t(spelling.size);
    if (!spelling.has_escapes()) return {spelling.at, size};
    if (block_bytes_ < size + OVERREAD_BYTES) {
        const std::size_t rest_of_line = std::size_t(line_end_ - spelling.at) + OVERREAD_BYTES;
        const std::size_t bytes = std::max(rest_of_line, BLOCK_BYTES);
        blocks_.reserve(blocks_.size() + 1);
        blocks_.emplace_back(new char[bytes]);
        block_at_ = blocks_.back().get();
        block_bytes_ = bytes;
    }
    char* const word = block_at_;
    unquote(spelling, word);
    block_at_ += size;
    block_bytes_ -= size;
    return {word, size};
}

void GeneralLines::prefetch(const Table& table, std::size_t max_keys) {
    prefetch(table, 0, std::min(keys_.size(), max_keys));
}

void GeneralLines::prefetch(const Table& table, std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) table.prefetch_slot(keys_[i].key.hash);
    for (std::size_t i = begin; i < end; ++i) table.prefetch_record(keys_[i].key);
}

void GeneralLines::clear_slot_hints() {
    for (LineKey& key : keys_) key.key.slot_hint = nullptr;
}

Outcome GeneralLines::execute(std::size_t number, const EngineState& state,
                              std::vector<Change>* changes, TextSpace& space) {
    Line& line = lines_[number];
    line.first_captured = captured_.size();
    if (line.kind != Kind::STEPS) return execute_alone(line, state, changes, space);
    try {
        return execute_steps(line, state, changes, space);
    } catch (const std::bad_alloc&) {
        captured_.truncate(line.first_captured);
        throw;
    }
}

Outcome GeneralLines::execute_steps(Line& line, const EngineState& state,
                                    std::vector<Change>* changes, TextSpace& space) {
    const std::uint64_t now = line.has_for ? now_ms() : 0;
    look_up(line, state.table);
    line.output_bytes = 0;
    for (line.failed_step = line.first_step; line.failed_step != line.end_step; ++line.failed_step)
        if (!execute_step(line, steps_[line.failed_step], now, space.max_line_bytes())) break;
    const bool has_failed = line.failed_step != line.end_step;
    if (has_failed) {
        captured_.truncate(line.first_captured);
        line.output_bytes = NOT.size();
        capture(line, steps_[line.failed_step], space.max_line_bytes());
    }
    if (line.output_bytes > space.max_line_bytes()) {
        captured_.truncate(line.first_captured);
        return {0, false, true};
    }
    space.reserve_output(line.output_bytes);
    return {line.output_bytes, !has_failed && apply(line, state, changes), false};
}

void GeneralLines::look_up(const Line& line, const Table& table) {
    const bool has_many_keys = line.end_key - line.first_key > PREFETCHED_KEYS;
    for (std::size_t i = line.first_key; i < line.end_key; ++i) {
        if (has_many_keys && (i - line.first_key) % PREFETCHED_KEYS == 0)
            prefetch(table, i, std::min(i + PREFETCHED_KEYS, line.end_key));
        LineKey& key = keys_[i];
        const RecordId id = table.find(key.key);
        key.has_existed = id;
        key.value = id ? KeyValue::of_record(table.records()[id].value()) : KeyValue::missing();
        key.until = id ? table.until(id) : NO_EXPIRY;
    }
}

// Execute a step in the line; return false if the line fails in it.
bool GeneralLines::execute_step(Line& line, const Step& step, std::uint64_t now,
                                std::size_t max_output_bytes) {
    const std::uint64_t until = step.expiry == ExpiryForm::FOR ? std::min(now + step.ms, MAX_UNTIL)
                                : step.expiry == ExpiryForm::UNTIL ? step.ms
                                                                   : NO_EXPIRY;
    switch (step.kind) {
    case StepKind::IF: return fulfils(step);
    case StepKind::WRITE:
        for (std::size_t i = step.first_pair; i < step.end_pair; ++i) {
            LineKey& key = keys_[pairs_[i].key];
            key.value = pairs_[i].value;
            key.until = until;
        }
        return true;
    case StepKind::ADD:
        if (!add_numbers(step)) return false;
        for (std::size_t i = step.first_run; i < step.end_run; ++i) {
            LineKey& key = keys_[runs_[i].key];
            key.value = KeyValue::of_number(key.sum);
            if (until != NO_EXPIRY) key.until = until;
        }
        capture(line, step, max_output_bytes);
        return true;
    case StepKind::READ: capture(line, step, max_output_bytes); return true;
    case StepKind::DELETE: {
        std::size_t bytes = 0;
        for (std::size_t i = step.first_run; i < step.end_run; ++i) {
            LineKey& key = keys_[runs_[i].key];
            if (!key.value.is_missing()) --runs_[i].times;
            bytes += runs_[i].times * pair_bytes(key.spelled_size + MISSING_KEY.size());
            key.value = KeyValue::missing();
            key.until = NO_EXPIRY;
        }
        line.output_bytes += bytes ? bytes + LINE_BYTES : 0;
        return true;
    }
    }
    return false;
}

bool GeneralLines::fulfils(const Step& step) const {
    for (std::size_t i = step.first_pair; i < step.end_pair; ++i) {
        const KeyValue& expected = pairs_[i].value;
        const KeyValue& value = keys_[pairs_[i].key].value;
        if (value.state != expected.state) return false;
        if (value.state == KeyValue::State::WORD && value.view() != expected.view()) return false;
    }
    return true;
}

// Compute the sums of an ADD; return false if one of them cannot be computed.
bool GeneralLines::add_numbers(const Step& step) {
    for (std::size_t i = step.first_run; i < step.end_run; ++i) {
        LineKey& key = keys_[runs_[i].key];
        key.sum = 0;
        if (key.value.state == KeyValue::State::NUMBER) key.sum = key.value.number;
        if (key.value.state == KeyValue::State::WORD && !parse_number(key.value.view(), key.sum))
            return false;
    }
    for (std::size_t i = step.first_pair; i < step.end_pair; ++i) {
        LineKey& key = keys_[pairs_[i].key];
        if (__builtin_add_overflow(key.sum, pairs_[i].value.number, &key.sum)) return false;
    }
    return true;
}

// Capture the values of the keys of a step for the output, unless that gets too long.
void GeneralLines::capture(Line& line, const Step& step, std::size_t max_output_bytes) {
    line.output_bytes += LINE_BYTES;
    for (std::size_t i = step.first_run; i < step.end_run; ++i) {
        const LineKey& key = keys_[runs_[i].key];
        line.output_bytes +=
            runs_[i].times * pair_bytes(key.spelled_size + key.value.spelled_size());
        if (line.output_bytes <= max_output_bytes) captured_.add(key.value);
    }
}

// Give the table what the line has made of its keys; return whether anything has changed. Throws
// std::bad_alloc; then nothing has changed.
bool GeneralLines::apply(const Line& line, const EngineState& state, std::vector<Change>* changes) {
    written_keys_.truncate(0);
    written_values_.truncate(0);
    numbers_.clear();
    numbers_.reserve_more((line.end_changed - line.first_changed) * MAX_NUMBER_BYTES);
    bool has_changed = false;
    for (std::size_t i = line.first_changed; i < line.end_changed; ++i) {
        const LineKey& key = keys_[changed_[i]];
        has_changed |= key.has_existed;
        if (key.value.is_missing()) continue;
        NewValue& written = written_values_.push_uninitialized();
        written = {{key.value.at, key.value.size}, key.value.is_plain, key.value.large, key.until};
        if (key.value.state == KeyValue::State::NUMBER) {
            const std::size_t before = numbers_.size();
            numbers_.append(NumberText(key.value.number).view());
            const std::string_view text = numbers_.view_from(before);
            written.bytes = {text.data(), std::uint32_t(text.size())};
        }
        written_keys_.push_uninitialized() = key.key;
    }
    const std::size_t written_count = written_keys_.size();
    if (!written_count && !has_changed) return false;
    state.table.reserve(written_keys_.begin(), written_values_.begin(), written_count);
    if (changes)
        for (std::size_t i = line.first_changed; i < line.end_changed; ++i)
            report_change(state, keys_[changed_[i]], *changes);
    for (std::size_t i = 0; i < written_count; ++i)
        state.table.insert_or_assign(written_keys_[i], written_values_[i]);
    for (std::size_t i = line.first_changed; i < line.end_changed; ++i) {
        const LineKey& key = keys_[changed_[i]];
        if (key.value.is_missing() && key.has_existed) state.table.erase(key.key);
    }
    return true;
}

// Append the change of a key if it is watched.
void GeneralLines::report_change(const EngineState& state, const LineKey& key,
                                 std::vector<Change>& changes) const {
    if (!state.watched_keys.contains(key.key)) return;
    const std::string name(key.key.view());
    if (key.value.state == KeyValue::State::NUMBER)
        changes.push_back({name, std::string(NumberText(key.value.number).view()), false});
    else if (key.value.state == KeyValue::State::WORD)
        changes.push_back({name, std::string(key.value.view()), false});
    else if (key.has_existed)
        changes.push_back({name, std::string(), true});
}

// Return the prefixes of a line, `""` if it has none. Throws std::bad_alloc.
PrefixSet GeneralLines::prefix_set(const Line& line) const {
    if (line.first_prefix == line.end_prefix) return {};
    std::vector<std::string> prefixes;
    prefixes.reserve(line.end_prefix - line.first_prefix);
    for (std::size_t i = line.first_prefix; i < line.end_prefix; ++i)
        prefixes.emplace_back(prefixes_[i].view());
    return PrefixSet(std::move(prefixes));
}

DumpQuery GeneralLines::query(std::size_t number) const {
    const Line& line = lines_[number];
    DumpQuery query;
    query.prefixes = prefix_set(line);
    if (line.has_after) query.after = std::string(line.after.view());
    query.limit = line.limit;
    query.shows_expiries = line.shows_expiries;
    return query;
}

// Execute a COUNT, CLEAR or EXPIRE.
Outcome GeneralLines::execute_alone(Line& line, const EngineState& state,
                                    std::vector<Change>* changes, TextSpace& space) {
    removal_.clear();
    if (line.kind == Kind::EXPIRE) {
        removal_.find_expired(state.table, line.ms);
    } else {
        const PrefixSet prefixes = prefix_set(line);
        const bool is_clear = line.kind == Kind::CLEAR;
        const bool has_all = prefixes.has_all();
        if (is_clear && !(has_all && state.table_holder)) removal_.find(state.table, prefixes);
        if (is_clear && state.table_holder && (has_all || removal_.size() == state.table.size()))
            return remove_all(line, state, changes, space);
        if (!is_clear) line.number = count(state.table, prefixes);
    }
    Outcome outcome;
    if (line.kind == Kind::CLEAR) line.number = removal_.size();
    if (line.kind != Kind::EXPIRE)
        outcome.output_bytes = NumberText(std::int64_t(line.number)).view().size() + 1;
    space.reserve_output(outcome.output_bytes);
    if (line.kind == Kind::EXPIRE && space.has_record() && removal_.size()) {
        removal_.reserve_copies();
        space.reserve_record(removal_.record_bytes());
    }
    if (changes) removal_.collect_changes(state.watched_keys, hash_key_, *changes);
    removal_.apply(state.table, hash_key_);
    outcome.has_changed = removal_.size();
    return outcome;
}

// Execute a CLEAR of all pairs: by an empty table, as to remove a million pairs one by one takes
// a tenth of a second. The last call that uses the old table destroys it, without the engine's
// lock.
Outcome GeneralLines::remove_all(Line& line, const EngineState& state, std::vector<Change>* changes,
                                 TextSpace& space) {
    line.number = state.table.size();
    Outcome outcome;
    outcome.output_bytes = NumberText(std::int64_t(line.number)).view().size() + 1;
    space.reserve_output(outcome.output_bytes);
    if (!line.number) return outcome;
    auto empty = std::make_shared<Table>(hash_key_);
    if (changes) Removal::collect_all_changes(state.table, state.watched_keys, hash_key_, *changes);
    state.table_holder->swap(empty);
    outcome.has_changed = true;
    return outcome;
}

void GeneralLines::write(std::size_t number, Buffer& out) const {
    const Line& line = lines_[number];
    if (line.kind == Kind::COUNT || line.kind == Kind::CLEAR) {
        out.append(NumberText(std::int64_t(line.number)).view());
        out.append('\n');
        return;
    }
    std::size_t captured = line.first_captured;
    if (line.failed_step != line.end_step) {
        out.append(NOT);
        write_runs(steps_[line.failed_step], captured, out);
        return;
    }
    for (std::size_t i = line.first_step; i < line.end_step; ++i) {
        const Step& step = steps_[i];
        if (step.kind == StepKind::READ || step.kind == StepKind::ADD)
            write_runs(step, captured, out);
        if (step.kind == StepKind::DELETE) write_missing(step, out);
    }
}

// Write the keys of a step and their captured values, the first of which has the index `captured`.
void GeneralLines::write_runs(const Step& step, std::size_t& captured, Buffer& out) const {
    out.append('[');
    for (std::size_t i = step.first_run; i < step.end_run; ++i) {
        const Key& key = keys_[runs_[i].key].key;
        const std::size_t size_before = out.size();
        out.append('(');
        append_spelled(out, key.view(), key.is_plain);
        out.append(',');
        captured_[captured++].append_to(out);
        out.append(')');
        out.repeat(out.size() - size_before, runs_[i].times - 1);
    }
    out.append("]\n");
}

// Write the missing keys of a DELETE, if there are any.
void GeneralLines::write_missing(const Step& step, Buffer& out) const {
    bool has_missing = false;
    for (std::size_t i = step.first_run; i < step.end_run; ++i) {
        if (!runs_[i].times) continue;
        if (!has_missing) out.append('[');
        has_missing = true;
        const Key& key = keys_[runs_[i].key].key;
        const std::size_t size_before = out.size();
        out.append('(');
        append_spelled(out, key.view(), key.is_plain);
        out.append(',');
        out.append(MISSING_KEY);
        out.append(')');
        out.repeat(out.size() - size_before, runs_[i].times - 1);
    }
    if (has_missing) out.append("]\n");
}

void GeneralLines::write_record(std::size_t number, Buffer& out) {
    const Line& line = lines_[number];
    if (line.kind == Kind::EXPIRE) {
        removal_.write_record(out);
    } else if (line.kind == Kind::CLEAR) {
        out.append("CLEAR ");
        char before = '[';
        for (std::size_t i = line.first_prefix; i < line.end_prefix; ++i) {
            const std::string_view prefix = prefixes_[i].view();
            out.append(before);
            append_spelled(out, prefix, is_plain_word(prefix));
            before = ',';
        }
        out.append("]\n");
    } else {
        write_changes(line, out);
    }
}

// Write the changes of a line as steps; neighbours of one kind and one expiry share a step.
void GeneralLines::write_changes(const Line& line, Buffer& out) const {
    const LineKey* before = nullptr;
    const auto is_written = [](const LineKey& key) { return !key.value.is_missing(); };
    const auto end_step = [&] {
        out.append(']');
        if (!is_written(*before) || before->until == NO_EXPIRY) return;
        out.append(' ');
        append_until(out, before->until);
    };
    for (std::size_t i = line.first_changed; i < line.end_changed; ++i) {
        const LineKey& key = keys_[changed_[i]];
        if (!is_written(key) && !key.has_existed) continue;
        const bool is_new_step =
            !before || is_written(*before) != is_written(key) || before->until != key.until;
        if (is_new_step) {
            if (before) {
                end_step();
                out.append(' ');
            }
            out.append(is_written(key) ? "WRITE [" : "DELETE [");
        }
        if (is_written(key)) {
            out.append('(');
            append_spelled(out, key.key.view(), key.key.is_plain);
            out.append(',');
            key.value.append_to(out);
            out.append(')');
        } else {
            if (!is_new_step) out.append(',');
            append_spelled(out, key.key.view(), key.key.is_plain);
        }
        before = &key;
    }
    assert(before);
    end_step();
    out.append('\n');
}

}  // namespace kvs

#include "long_line.hpp"

#include <cassert>
#include <limits>

#include "buffer.hpp"
#include "captured_values.hpp"
#include "output_format.hpp"
#include "word_sort.hpp"

namespace kvs {

namespace {

constexpr std::size_t PREFETCH_DISTANCE = 16;  // words

// A sink that collects the offsets of keys from `line` on.
struct OffsetCollector {
    static constexpr bool FOR_LONG_LINES = true;
    struct Size {};

    const char* line;
    std::uint32_t* next;

    Size size() const { return {}; }
    void add_key(const KeyHasher&, const char* at, std::size_t) {
        *next++ = std::uint32_t(at - line);
    }
    void add_value(const char*, std::size_t) {}
    void end_item(const char*) {}
    void truncate(Size) {}
};

constexpr std::size_t CHUNK_KEYS = 128;  // keys that are hashed and prefetched together

// A sink that calls `visit` with up to 128 keys at a time, and with their values if there are any.
template <typename Visit>
class KeyChunks {
public:
    static constexpr bool FOR_LONG_LINES = true;
    struct Size {};

    explicit KeyChunks(Visit visit) : visit_(visit) {}

    Size size() const { return {}; }
    void add_key(const KeyHasher& hasher, const char* at, std::size_t size) {
        if (count_ == CHUNK_KEYS) flush();
        hasher.make_key(keys_[count_++], at, size);
    }
    void add_value(const char* at, std::size_t size) {
        assert(count_);
        values_[count_ - 1] = {at, std::uint32_t(size)};
    }
    void end_item(const char*) {}
    void truncate(Size) {}

    void flush() {
        visit_(keys_, values_, count_);
        count_ = 0;
    }

private:
    Visit visit_;
    Key keys_[CHUNK_KEYS];
    Word values_[CHUNK_KEYS];
    std::size_t count_ = 0;
};

void prefetch(const Table& table, Key* keys, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) table.prefetch_slot(keys[i].hash);
    for (std::size_t i = 0; i < count; ++i) table.prefetch_record(keys[i]);
}

void append_pairs(Buffer& out, std::string_view key, std::string_view value, std::size_t times) {
    append_pair(out, key, value);
    out.repeat(pair_bytes(key.size() + value.size()), times - 1);
}

// Append a key and its value `times` times; return false if there would be more than `max_bytes`.
bool append_value(const Table& table, const Key& key, std::size_t times, std::size_t max_bytes,
                  Buffer& out) {
    const RecordId id = table.find(key);
    const KeyValue value =
        id ? KeyValue::of_record(table.records()[id].value()) : KeyValue::missing();
    const std::size_t bytes = times * pair_bytes(key.size + value.spelled_size());
    if (bytes > max_bytes) return false;
    out.reserve_more(bytes);
    const std::size_t size_before = out.size();
    out.append('(');
    out.append_word(key.view());
    out.append(',');
    value.append_to(out);
    out.append(')');
    out.repeat(out.size() - size_before, times - 1);
    return true;
}

}  // namespace

Kind LongLine::read(const char* at) {
    begin_ = at;
    kind_ = parser_.parse_line(at, counter_);
    if (kind_ == Kind::READ || kind_ == Kind::DELETE) make_offsets();
    if (kind_ == Kind::READ) {
        OffsetCollector keys{begin_, offsets()};
        parser_.parse_line(begin_, keys);
        offset_count_ = counter_.keys;
        sort();
    }
    if (kind_ == Kind::WRITE) is_inserted_.resize(counter_.keys);
    return kind_;
}

std::size_t LongLine::max_output_bytes() const {
    if (kind_ != Kind::DELETE) return 0;
    return LINE_BYTES + counter_.key_bytes + counter_.keys * pair_bytes(MISSING_KEY.size());
}

std::size_t LongLine::execute(const EngineState& state, Buffer& out, std::vector<Change>* changes) {
    switch (kind_) {
    case Kind::WRITE: write_pairs(state, changes); return 0;
    case Kind::READ: return read_keys(state.table, out);
    case Kind::DELETE: return erase_keys(state, changes);
    default: return 0;
    }
}

// Parse the line again and skip the missing keys, whose offsets are in the order of the line.
void LongLine::write_record(Buffer& out) {
    const std::uint32_t* missing = offsets();
    const std::uint32_t* const end = missing + offset_count_;
    out.append("DELETE ");
    char before = '[';
    for_each_chunk([&](const Key* keys, const Word*, std::size_t count) {
        for (std::size_t i = 0; i < count; ++i) {
            if (missing != end && keys[i].at == begin_ + *missing) {
                ++missing;
                continue;
            }
            out.append(before);
            out.append_word(keys[i].view());
            before = ',';
        }
    });
    out.append("]\n");
}

void LongLine::write(Buffer& out) {
    if (kind_ != Kind::DELETE || !offset_count_) return;
    sort();
    out.append('[');
    for (std::size_t i = 0; i < offset_count_;) {
        std::size_t times;
        const std::string_view key = next_word(i, times);
        append_pairs(out, key, MISSING_KEY, times);
    }
    out.append("]\n");
}

void LongLine::make_offsets() {
    if (std::size_t(parser_.next() - begin_) > std::numeric_limits<std::uint32_t>::max())
        throw std::bad_alloc();  // an offset of 4 bytes cannot reach its end
    offsets_ = MappedMemory(counter_.keys * sizeof(std::uint32_t));
}

// Return the word at index `number` of the sorted words, and in `times` the number of words equal
// to it, which follow it. Move `number` behind them.
std::string_view LongLine::next_word(std::size_t& number, std::size_t& times) {
    const std::size_t first = number;
    const std::string_view first_word = word(number++);
    for (; number < offset_count_; ++number) {
        const std::string_view next = word(number);
        if (next.size() != first_word.size() ||
            !equal_bytes(next.data(), first_word.data(), next.size()))
            break;
    }
    times = number - first;
    return first_word;
}

std::string_view LongLine::word(std::size_t number) {
    if (number + PREFETCH_DISTANCE < offset_count_)
        __builtin_prefetch(begin_ + offsets()[number + PREFETCH_DISTANCE]);
    const char* const at = begin_ + offsets()[number];
    return {at, word_size(at, parser_.end())};
}

// Parse the line again, and call `visit` with up to 128 keys and values at a time.
template <typename Visit>
void LongLine::for_each_chunk(Visit visit) {
    KeyChunks<Visit> chunks(visit);
    parser_.parse_line(begin_, chunks);
    chunks.flush();
}

void LongLine::write_pairs(const EngineState& state, std::vector<Change>* changes) {
    state.table.reserve_units(counter_.record_units);
    if (changes) {
        state.watched_keys.begin_command();
        for_each_chunk([&](const Key* keys, const Word* values, std::size_t count) {
            state.watched_keys.collect_writes(keys, values, count, *changes);
        });
    }
    if (insert_missing(state.table) == counter_.keys) return;
    for_each_chunk([&](Key* keys, const Word* values, std::size_t count) {
        prefetch(state.table, keys, count);
        for (std::size_t i = 0; i < count; ++i) state.table.insert_or_assign(keys[i], values[i]);
    });
}

// Insert the pairs whose keys are missing; return their number. Only insertions can fail, so they
// come first: setting the value of an existing key needs no slot, and its record space is reserved.
// Throws std::bad_alloc after removing the inserted pairs again.
std::size_t LongLine::insert_missing(Table& table) {
    std::size_t number = 0, inserted = 0;
    try {
        for_each_chunk([&](Key* keys, const Word* values, std::size_t count) {
            prefetch(table, keys, count);
            for (std::size_t i = 0; i < count; ++i, ++number) {
                if (!table.insert(keys[i], values[i])) continue;
                is_inserted_[number] = true;
                ++inserted;
            }
        });
    } catch (const std::bad_alloc&) {
        number = 0;
        for_each_chunk([&](const Key* keys, const Word*, std::size_t count) {
            for (std::size_t i = 0; i < count; ++i)
                if (is_inserted_[number++]) table.erase(keys[i]);
        });
        throw;
    }
    return inserted;
}

std::size_t LongLine::erase_keys(const EngineState& state, std::vector<Change>* changes) {
    if (changes) {
        state.watched_keys.begin_command();
        for_each_chunk([&](const Key* keys, const Word*, std::size_t count) {
            state.watched_keys.collect_removals(
                keys, count, *changes, [&](const Key& key) { return state.table.find(key) != 0; });
        });
    }
    std::size_t bytes = LINE_BYTES;
    for_each_chunk([&](Key* keys, const Word*, std::size_t count) {
        prefetch(state.table, keys, count);
        for (std::size_t i = 0; i < count; ++i) {
            if (state.table.erase(keys[i])) continue;
            offsets()[offset_count_++] = std::uint32_t(keys[i].at - begin_);
            bytes += pair_bytes(keys[i].size + MISSING_KEY.size());
        }
    });
    return offset_count_ ? bytes : 0;
}

// Equal keys are adjacent, and are looked up once.
std::size_t LongLine::read_keys(const Table& table, Buffer& out) {
    const std::size_t size_before = out.size();
    try {
        out.reserve_more(LINE_BYTES);
        out.append('[');
        for (std::size_t i = 0; i < offset_count_;) {
            Key keys[CHUNK_KEYS];
            std::size_t times[CHUNK_KEYS];
            std::size_t count = 0;
            for (; count < CHUNK_KEYS && i < offset_count_; ++count) {
                const std::string_view key = next_word(i, times[count]);
                parser_.hasher().make_key(keys[count], key.data(), key.size());
            }
            prefetch(table, keys, count);
            for (std::size_t k = 0; k < count && !is_refused_; ++k) {
                const std::size_t size = out.size() - size_before + std::string_view("]\n").size();
                is_refused_ =
                    size > allowed_output_bytes_ ||
                    !append_value(table, keys[k], times[k], allowed_output_bytes_ - size, out);
            }
            if (is_refused_) {
                out.truncate(size_before);
                return 0;
            }
        }
        out.reserve_more(LINE_BYTES);
        out.append("]\n");
    } catch (const std::bad_alloc&) {
        out.truncate(size_before);
        throw;
    }
    return out.size() - size_before;
}

void LongLine::sort() { WordSort(begin_, parser_).sort(offsets(), offset_count_); }

void ScriptCheck::run(const char* script, std::size_t size) {
    const char* const end = script + size;
    LineParser parser({}, end);
    for (const char* at = script; at != end; at = parser.next()) {
        WordCounter counter;
        const Kind kind = parser.parse_line(at, counter);
        const bool is_long = kind != Kind::IDLE && is_too_long(at, parser.next(), MAX_LINE_BYTES);
        const bool is_valid =
            !is_long && (kind != Kind::INVALID ||
                         is_valid_general_line(at, end_without_ending(at, parser.next())));
        if (is_valid)
            commands += kind != Kind::IDLE;
        else
            invalid.push_back({std::size_t(at - script),
                               counter.valid_until ? std::size_t(counter.valid_until - script) : 0,
                               is_long ? Fault::LINE_BYTES : Fault::SYNTAX});
    }
}

}  // namespace kvs

#include "long_line.hpp"

#include <limits>

#include "buffer.hpp"
#include "output_format.hpp"
#include "word_sort.hpp"

namespace kvs {

namespace {

constexpr std::size_t AHEAD = 16;  // words to fetch before they are needed
// A sink that takes the offsets of keys from `line`.
struct Offsets {
    static constexpr bool MANY = true;
    struct Size {};

    const char* line;
    std::uint32_t* next;

    Size size() const { return {}; }
    void add_key(const Hasher&, const char* at, std::size_t) { *next++ = std::uint32_t(at - line); }
    void add_value(const char*, std::size_t) {}
    void good_until(const char*) {}
    void cut(Size) {}
};

constexpr std::size_t CHUNK = 128;  // keys hashed and looked up together

// A sink that calls `each` with some keys at a time, and with their values if they have any.
template <typename Each>
class Chunks {
public:
    static constexpr bool MANY = true;
    struct Size {};

    explicit Chunks(Each each) : each_(each) {}

    Size size() const { return {}; }
    void add_key(const Hasher& hasher, const char* at, std::size_t size) {
        if (count_ == CHUNK) flush();
        hasher.set(keys_[count_++], at, size);
    }
    void add_value(const char* at, std::size_t size) {
        values_[count_ - 1] = {at, std::uint8_t(size)};
    }
    void good_until(const char*) {}
    void cut(Size) {}

    void flush() {
        each_(keys_, values_, count_);
        count_ = 0;
    }

private:
    Each each_;
    Key keys_[CHUNK];
    Word values_[CHUNK];
    std::size_t count_ = 0;
};

void prefetch(const Table& table, Key* keys, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) table.prefetch_slot(keys[i].hash);
    for (std::size_t i = 0; i < count; ++i) table.prefetch_record(keys[i]);
}

void put_pairs(Buffer& out, std::string_view key, std::string_view value,
                      std::size_t times) {
    put_pair(out, key, value);
    out.repeat(pair_bytes(key.size() + value.size()), times - 1);
}

void put_found(const Table& table, const Key& key, std::size_t times, Buffer& out) {
    Value value;
    if (const Ref ref = table.find(key))
        table.records()[ref].copy_value(value);
    else
        value.set(MISSING_VALUE);
    out.make_room(times * pair_bytes(std::size_t(key.size) + value.size));
    put_pairs(out, key.view(), {value.bytes, value.size}, times);
}

}  // namespace

Kind LongLine::read(const char* at) {
    begin_ = at;
    kind_ = grammar_.line(at, tally_);
    if (kind_ == Kind::READ || kind_ == Kind::DELETE) make_offsets();
    if (kind_ == Kind::READ) {
        Offsets keys{begin_, offsets()};
        grammar_.line(begin_, keys);
        count_ = tally_.keys;
        sort();
    }
    if (kind_ == Kind::WRITE) inserted_.resize(tally_.keys);
    return kind_;
}

std::size_t LongLine::max_output() const {
    if (kind_ != Kind::DELETE) return 0;
    return LINE_BYTES + tally_.key_bytes + tally_.keys * pair_bytes(MISSING_KEY.size());
}

std::size_t LongLine::execute(const State& state, Buffer& out, std::vector<Change>* changes) {
    switch (kind_) {
    case Kind::WRITE: write_pairs(state, changes); return 0;
    case Kind::READ: return read_keys(state.table, out);
    case Kind::DELETE: return remove_keys(state, changes);
    default: return 0;
    }
}

void LongLine::write(Buffer& out) {
    if (kind_ != Kind::DELETE || !count_) return;
    sort();
    out.put('[');
    for (std::size_t i = 0; i < count_;) {
        std::size_t times;
        const std::string_view key = next_word(i, times);
        put_pairs(out, key, MISSING_KEY, times);
    }
    out.put("]\n");
}

void LongLine::make_offsets() {
    if (std::size_t(grammar_.next() - begin_) > std::numeric_limits<std::uint32_t>::max())
        throw std::bad_alloc();  // no offset of 4 bytes reaches its end
    offsets_ = Pages(tally_.keys * sizeof(std::uint32_t));
}

// The word at offset `number` of those in order, and how many stand there that are equal to it;
// `number` moves behind them.
std::string_view LongLine::next_word(std::size_t& number, std::size_t& times) {
    const std::size_t first = number;
    const std::string_view found = word(number++);
    for (; number < count_; ++number) {
        const std::string_view next = word(number);
        if (next.size() != found.size() || !same_word(next.data(), found.data(), next.size()))
            break;
    }
    times = number - first;
    return found;
}

std::string_view LongLine::word(std::size_t number) {
    if (number + AHEAD < count_) __builtin_prefetch(begin_ + offsets()[number + AHEAD]);
    const char* const at = begin_ + offsets()[number];
    return {at, word_size(at, grammar_.end())};
}

// Parse the line again, and call `each` with some keys and values at a time.
template <typename Each>
void LongLine::for_each(Each each) {
    Chunks<Each> chunks(each);
    grammar_.line(begin_, chunks);
    chunks.flush();
}

void LongLine::write_pairs(const State& state, std::vector<Change>* changes) {
    state.table.make_room(tally_.units);
    if (changes) {
        state.watched.begin_command();
        for_each([&](const Key* keys, const Word* values, std::size_t count) {
            state.watched.put_writes(keys, values, count, *changes);
        });
    }
    if (insert(state.table) == tally_.keys) return;
    for_each([&](Key* keys, const Word* values, std::size_t count) {
        prefetch(state.table, keys, count);
        for (std::size_t i = 0; i < count; ++i) state.table.put(keys[i], values[i]);
    });
}

// Insert the pairs whose keys are missing, which is all that can fail; return how many they were.
// Throws std::bad_alloc, and has then removed them again.
std::size_t LongLine::insert(Table& table) {
    std::size_t number = 0, inserted = 0;
    try {
        for_each([&](Key* keys, const Word* values, std::size_t count) {
            prefetch(table, keys, count);
            for (std::size_t i = 0; i < count; ++i, ++number) {
                if (!table.insert(keys[i], values[i])) continue;
                inserted_[number] = true;
                ++inserted;
            }
        });
    } catch (const std::bad_alloc&) {
        number = 0;
        for_each([&](const Key* keys, const Word*, std::size_t count) {
            for (std::size_t i = 0; i < count; ++i)
                if (inserted_[number++]) table.remove(keys[i]);
        });
        throw;
    }
    return inserted;
}

std::size_t LongLine::remove_keys(const State& state, std::vector<Change>* changes) {
    if (changes) {
        state.watched.begin_command();
        for_each([&](const Key* keys, const Word*, std::size_t count) {
            state.watched.put_removals(
                keys, count, *changes,
                [&](const Key& key) { return state.table.find(key) != 0; });
        });
    }
    std::size_t bytes = LINE_BYTES;
    for_each([&](Key* keys, const Word*, std::size_t count) {
        prefetch(state.table, keys, count);
        for (std::size_t i = 0; i < count; ++i) {
            if (state.table.remove(keys[i])) continue;
            offsets()[count_++] = std::uint32_t(keys[i].at - begin_);
            bytes += pair_bytes(keys[i].size + MISSING_KEY.size());
        }
    });
    return count_ ? bytes : 0;
}

// Equal keys stand side by side, and are looked up once.
std::size_t LongLine::read_keys(const Table& table, Buffer& out) {
    const std::size_t before = out.size();
    try {
        out.make_room(LINE_BYTES);
        out.put('[');
        for (std::size_t i = 0; i < count_;) {
            Key keys[CHUNK];
            std::size_t times[CHUNK];
            std::size_t count = 0;
            for (; count < CHUNK && i < count_; ++count) {
                const std::string_view key = next_word(i, times[count]);
                grammar_.hasher().set(keys[count], key.data(), key.size());
            }
            prefetch(table, keys, count);
            for (std::size_t k = 0; k < count; ++k) put_found(table, keys[k], times[k], out);
        }
        out.make_room(LINE_BYTES);
        out.put("]\n");
    } catch (const std::bad_alloc&) {
        out.cut(before);
        throw;
    }
    return out.size() - before;
}

void LongLine::sort() { WordSort(begin_, grammar_).sort(offsets(), count_); }

void Check::run(const char* script, std::size_t size) {
    const char* const end = script + size;
    Grammar grammar({}, end);
    for (const char* at = script; at != end; at = grammar.next()) {
        Tally tally;
        const Kind kind = grammar.line(at, tally);
        if (kind == Kind::INVALID)
            invalid.push_back({std::size_t(at - script),
                               tally.good ? std::size_t(tally.good - script) : 0});
        else
            commands += kind != Kind::IDLE;
    }
}

}  // namespace kvs

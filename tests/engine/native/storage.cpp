// Tests of the storage of the compiled engine: records, evacuation, expiries, large values, dumps.
// Linked with --wrap for the functions that allocate memory, so that each call can be made to fail.
// Exits with status 1 and a line at the first failed check.
//
// `storage churn` measures memory instead, and is to be built without sanitizers. `storage threads`
// runs the only test of several threads.

#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "table_dump.hpp"

#define CHECK(condition)                                                         \
    do {                                                                         \
        if (!(condition)) {                                                      \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            std::exit(1);                                                        \
        }                                                                        \
    } while (false)

// Allocations until one fails, counted down; below 0, none fails.
static long allocations_left = -1;

static bool fails() { return allocations_left >= 0 && allocations_left-- == 0; }

extern "C" {
void* __real_mmap(void*, std::size_t, int, int, int, off_t);
void* __real_mremap(void*, std::size_t, std::size_t, int, ...);
void* __real_calloc(std::size_t, std::size_t);
void* __real_realloc(void*, std::size_t);

void* __wrap_mmap(void* at, std::size_t size, int protection, int flags, int file, off_t offset) {
    return fails() ? MAP_FAILED : __real_mmap(at, size, protection, flags, file, offset);
}
void* __wrap_mremap(void* at, std::size_t size, std::size_t new_size, int flags, ...) {
    return fails() ? MAP_FAILED : __real_mremap(at, size, new_size, flags);
}
void* __wrap_calloc(std::size_t count, std::size_t size) {
    return fails() ? nullptr : __real_calloc(count, size);
}
void* __wrap_realloc(void* at, std::size_t size) {
    return fails() ? nullptr : __real_realloc(at, size);
}
void* __real__Znwm(std::size_t);
void* __wrap__Znwm(std::size_t size) {  // operator new
    if (fails()) throw std::bad_alloc();
    return __real__Znwm(size);
}
}

namespace {

using kvs::Key;
using kvs::LargeValue;
using kvs::LargeValueRef;
using kvs::NewValue;
using kvs::NO_EXPIRY;
using kvs::RecordId;
using kvs::Table;

constexpr kvs::HashKey HASH_KEY{1, 2};

std::uint64_t one_hash(kvs::HashKey, const char*, std::size_t) { return 0; }
// All keys in one segment at any depth, with different homes.
std::uint64_t one_segment(kvs::HashKey key, const char* at, std::size_t size) {
    return kvs::siphash13(key, at, size) >> 18;
}

struct Entry {
    std::string value;
    std::uint64_t until;

    bool operator==(const Entry& other) const {
        return value == other.value && until == other.until;
    }
};

using Model = std::map<std::string, Entry>;

Key make_key(const std::string& text, Table::Hash hash) {
    return {{text.data(), std::uint32_t(text.size())}, false, kvs::is_plain_word(text),
            hash(HASH_KEY, text.data(), text.size()),  0,     nullptr};
}

// A table beside a naive model of it.
class Pair {
public:
    explicit Pair(Table::Hash hash) : hash_(hash), table_(HASH_KEY, hash) {}

    Table& table() { return table_; }
    Model& model() { return model_; }
    Key key(const std::string& text) const { return make_key(text, hash_); }

    // Throws std::bad_alloc; then nothing has changed.
    void set(const std::string& name, const std::string& value, std::uint64_t until,
             std::uint64_t* hint = nullptr) {
        const bool is_plain = kvs::is_plain_value(value);
        LargeValueRef large;
        if (value.size() > kvs::MAX_INLINE_VALUE)
            large = LargeValueRef(LargeValue::create(value, is_plain));
        Key named = key(name);
        named.slot_hint = hint;
        const kvs::Word bytes{large.get() ? large.get()->data() : value.data(),
                              std::uint32_t(value.size())};
        const NewValue written{bytes, is_plain, large.get(), until};
        if (named.is_plain && name.size() <= 40 && is_plain && value.size() <= 40 &&
            until == NO_EXPIRY && value.size() % 2) {
            table_.reserve(&named, 1);
            table_.insert_or_assign(named, bytes);
        } else {
            table_.reserve(&named, &written, 1);
            table_.insert_or_assign(named, written);
        }
        const long left = std::exchange(allocations_left, -1);
        model_[name] = {value, until};
        allocations_left = left;
    }

    void erase(const std::string& name, std::uint64_t* hint = nullptr) {
        Key named = key(name);
        named.slot_hint = hint;
        CHECK(table_.erase(named) == (model_.erase(name) == 1));
    }

    void check_key(const std::string& name, std::uint64_t* hint = nullptr) {
        Key named = key(name);
        named.slot_hint = hint;
        const RecordId id = table_.find(named);
        const auto found = model_.find(name);
        CHECK((id != 0) == (found != model_.end()));
        if (!id) return;
        const kvs::Record record = table_.records()[id];
        CHECK(record.key().view() == name);
        CHECK(record.value().view() == found->second.value);
        CHECK(record.value().is_plain == kvs::is_plain_value(found->second.value));
        CHECK(record.value().spelled_size() ==
              kvs::spelled_size(found->second.value, record.value().is_plain));
        CHECK(table_.until(id) == found->second.until);
    }

    void check() {
        CHECK(table_.size() == model_.size());
        std::uint64_t earliest = NO_EXPIRY;
        std::size_t expiring = 0, large_bytes = 0;
        for (const auto& [name, entry] : model_) {
            check_key(name);
            earliest = std::min(earliest, entry.until);
            expiring += entry.until != NO_EXPIRY;
            large_bytes += entry.value.size() > kvs::MAX_INLINE_VALUE ? entry.value.size() : 0;
        }
        CHECK(table_.earliest_expiry() == earliest);
        CHECK(table_.expiries().size() == expiring);
        CHECK(table_.records().large_bytes() == large_bytes);
        if (expiring) CHECK(table_.until(table_.expiries()[0].record) == earliest);
        std::size_t count = 0;
        for (const kvs::Span& span : table_.records().spans())
            kvs::Records::for_each(span, [&](const char*) { ++count; });
        CHECK(count == model_.size());
    }

private:
    const Table::Hash hash_;
    Table table_;
    Model model_;
};

// Spelling.

std::string spelled(const std::string& word, bool is_plain) {
    kvs::Buffer out;
    const std::size_t size = kvs::spelled_size(word, is_plain);
    CHECK(size <= kvs::max_spelled_size(word.size(), is_plain));
    out.reserve_more(size + 1);
    kvs::append_spelled(out, word, is_plain);
    CHECK(out.size() == size);
    return std::string(out.view_from(0));
}

std::string spelled_key(const std::string& key) { return spelled(key, kvs::is_plain_word(key)); }
std::string spelled_value(const std::string& value) {
    return spelled(value, kvs::is_plain_value(value));
}

// Return the word that begins at `at`, in canonical spelling, and move `at` behind it.
std::string read_word(const std::string& text, std::size_t& at) {
    if (text[at] != '"') {
        const std::size_t end = text.find_first_of(std::string("\0\n\r \t,)]", 8), at);
        const std::string word = text.substr(at, end - at);
        CHECK(!word.empty());
        at = end;
        return word;
    }
    std::string word;
    for (++at; text[at] != '"'; ++at) {
        CHECK(text[at] != '\n' && text[at] != '\r' && text[at] != '\0');
        if (text[at] != '\\') {
            word += text[at];
            continue;
        }
        const std::size_t letter = std::string("\"\\nr0").find(text[++at]);
        CHECK(letter != std::string::npos);
        word += "\"\\\n\r\0"[letter];
    }
    ++at;
    return word;
}

void check_spelling() {
    const std::string empty, nul(1, '\0');
    CHECK(spelled_key("abc") == "abc" && spelled_key("([\"") == "([\"");
    CHECK(spelled_key("\"a") == "\"\\\"a\"" && spelled_value(empty) == "\"\"");
    CHECK(spelled_key("KVSERROR") == "KVSERROR" && spelled_value("KVSERROR") == "\"KVSERROR\"");
    CHECK(spelled_value("KVSMISSING") == "\"KVSMISSING\"");
    CHECK(spelled_value("a b\tc") == "\"a b\tc\"" && spelled_value("a\\b") == "a\\b");
    CHECK(spelled_value("\r\n" + nul + "1\\") == "\"\\r\\n\\01\\\\\"");
    for (const char end : {' ', '\t', ',', ')', ']'})
        CHECK(spelled_value(std::string("x") + end) == std::string("\"x") + end + '"');
    std::mt19937 random(1);
    for (int round = 0; round < 20000; ++round) {
        std::string word;
        for (std::size_t left = random() % 12; left; --left)
            word += random() % 2 ? char(random()) : "\"\\\n\r\0 \t,)]([ax"[random() % 14];
        std::size_t at = 0;
        const std::string text = spelled_value(word) + ")";
        CHECK(read_word(text, at) == word && at == text.size() - 1);
    }
}

// Heap.

void check_heap() {
    std::mt19937 random(2);
    kvs::ExpiryHeap heap;
    std::vector<std::uint32_t> positions;
    std::map<RecordId, std::uint64_t> model;
    const auto place = [&](RecordId id, std::uint32_t position) { positions[id] = position; };
    for (int step = 0; step < 60000; ++step) {
        const bool grows = step / 10000 % 2 == 0;
        if (model.empty() || random() % 10 < (grows ? 7u : 3u)) {
            const std::uint64_t until = random() % 3 ? random() : random() % 4;
            heap.reserve_more(1);
            positions.push_back(0);
            model[positions.size() - 1] = until;
            heap.push({until, positions.size() - 1}, place);
        } else {
            auto each = model.lower_bound(random() % positions.size());
            if (each == model.end()) each = model.begin();
            if (random() % 4 == 0) {  // the record moves
                positions.push_back(positions[each->first]);
                heap.set_record(positions.back(), positions.size() - 1);
                model[positions.size() - 1] = each->second;
            } else {
                heap.remove(positions[each->first], place);
            }
            model.erase(each);
        }
        CHECK(heap.size() == model.size());
        if (step % 500) continue;
        std::uint64_t earliest = NO_EXPIRY;
        for (const auto& [id, until] : model) {
            earliest = std::min(earliest, until);
            CHECK(heap[positions[id]].record == id && heap[positions[id]].until == until);
        }
        CHECK(heap.earliest() == earliest);
    }
    std::uint64_t before = 0;
    for (; heap.size(); heap.remove(0, place)) {
        CHECK(heap.earliest() >= before);
        before = heap.earliest();
    }
}

// Dumps.

std::string listed(const std::string& key, const Entry& entry, bool shows_expiries) {
    std::string line = "(" + spelled_key(key) + ", " + spelled_value(entry.value) + ")";
    if (shows_expiries && entry.until != NO_EXPIRY) line += " UNTIL " + std::to_string(entry.until);
    return line + "\n";
}

std::string text_of(kvs::SortedDump& dump) {
    kvs::Buffer out;
    while (!dump.is_finished()) {
        const std::size_t before = out.size();
        dump.append_block(out);
        CHECK(out.size() > before);
    }
    return std::string(out.view_from(0));
}

// A copy of what a query selects, and the lines that a SHOW of it must have.
struct Shown {
    std::unique_ptr<kvs::TableCopy> copy;
    std::string expected;
};

std::vector<Shown> copies_of(const kvs::Table& table, const Model& model, std::mt19937& random) {
    std::vector<Shown> copies;
    for (int round = 0; round < 24; ++round) {
        std::vector<std::string> prefixes;
        for (std::size_t left = random() % 5; left; --left) {
            auto each = model.lower_bound(std::string(1, char(random())));
            prefixes.push_back(each == model.end() ? "k" : each->first.substr(0, random() % 12));
        }
        kvs::DumpQuery query;
        if (!prefixes.empty()) query.prefixes = kvs::PrefixSet(prefixes);
        if (random() % 2) {
            auto each = model.lower_bound(std::string(1, char(random())));
            query.after = each == model.end() ? std::string() : each->first;
        }
        if (random() % 2) query.limit = random() % (model.size() + 2);
        query.shows_expiries = random() % 2;
        std::string expected;
        std::size_t left = query.limit;
        for (const auto& [key, entry] : model) {
            const auto begins = [&, &name = key](const std::string& prefix) {
                return name.compare(0, prefix.size(), prefix) == 0;
            };
            const bool fits =
                prefixes.empty() || std::any_of(prefixes.begin(), prefixes.end(), begins);
            CHECK(query.prefixes.matches(key) == fits);
            if (!fits || !left || (query.after && key <= *query.after)) continue;
            expected += listed(key, entry, query.shows_expiries);
            --left;
        }
        auto copy =
            std::make_unique<kvs::TableCopy>(random() % 2 ? 100 : table.copy_bytes(), query);
        CHECK(copy->copy_from(table));
        copies.push_back({std::move(copy), std::move(expected)});
    }
    return copies;
}

void check_copies(const std::vector<Shown>& copies) {
    for (const auto& [copy, expected] : copies) {
        kvs::SortedDump dump(copy->pairs(), copy->query().shows_expiries);
        CHECK(dump.size() == copy->pairs().count);
        CHECK(text_of(dump) == expected);
    }
}

void check_listing(const kvs::Pairs& pairs, const Model& model) {
    std::string expected;
    for (const auto& [key, entry] : model) expected += listed(key, entry, true);
    kvs::SortedDump dump(pairs, true);
    CHECK(text_of(dump) == expected);
}

void check_writes(const kvs::Pairs& pairs, const Model& model) {
    Model written;
    kvs::WriteDump dump(pairs);
    while (!dump.is_finished()) {
        kvs::Buffer out;
        dump.append_block(out);
        const std::string line(out.view_from(0));
        std::size_t at = 7;
        CHECK(line.substr(0, at) == "WRITE [" && line.back() == '\n');
        std::vector<std::pair<std::string, std::string>> read;
        while (line[at] == '(') {
            read.emplace_back(read_word(line, ++at), std::string());
            CHECK(line[at++] == ',');
            read.back().second = read_word(line, at);
            CHECK(line[at++] == ')');
        }
        CHECK(line[at++] == ']' && !read.empty());
        CHECK(read.size() == 1 || line.size() < (3u << 20));
        std::uint64_t until = NO_EXPIRY;
        if (line[at] != '\n') {
            CHECK(line.substr(at, 7) == " UNTIL ");
            until = std::stoull(line.substr(at + 7));
        }
        for (const auto& [key, value] : read)
            CHECK(written.emplace(key, Entry{value, until}).second);
    }
    CHECK(written == model);
}

// Tables.

class Words {
public:
    explicit Words(std::mt19937& random) : random_(random) {}

    std::string name(unsigned count) {
        const unsigned number = unsigned(random_()) % count;
        std::string text = "k" + std::to_string(number);
        if (number % 5 == 0) text += " \n";
        if (number % 7 == 0) text.resize(1 + number * 37 % 1024, 'x');
        if (number % 11 == 0) text += std::string(number % 3 + 1, '\0');
        return text.substr(0, kvs::MAX_KEY_BYTES);
    }

    std::string value(std::size_t max_size) {
        std::size_t size = random_() % 100;
        switch (random_() % 6) {
        case 0: size = 0; break;
        case 1: size = random_() % 41; break;
        case 2: size = random_() % 300; break;
        case 3: size = random_() % (max_size + 1); break;
        case 4: size = std::min(kvs::MAX_INLINE_VALUE + random_() % 3 - 1, max_size); break;
        default: break;
        }
        std::string text(size, char('a' + random_() % 26));
        if (size && random_() % 3 == 0) text[random_() % size] = " \"\\\n\0x"[random_() % 6];
        return text;
    }

    std::uint64_t until() { return random_() % 3 ? NO_EXPIRY : random_() % 1000000; }

private:
    std::mt19937& random_;
};

// Random changes with evacuations between them, and slot hints from before an evacuation.
void check_table(Table::Hash hash, unsigned keys, int steps, std::size_t max_value) {
    std::mt19937 random(unsigned(steps) + keys);
    Words words(random);
    Pair pair(hash);
    std::size_t evacuations = 0;
    for (int step = 0; step < steps; ++step) {
        const std::string name = words.name(keys);
        Key hinted = pair.key(name);
        pair.table().prefetch_slot(hinted.hash);
        pair.table().prefetch_record(hinted);
        for (unsigned calls = unsigned(random()) % 4; calls && pair.table().has_garbage();
             --calls) {
            pair.table().release_garbage();
            ++evacuations;
        }
        switch (random() % 8) {
        case 0:
        case 1:
        case 2: pair.erase(name, hinted.slot_hint); break;
        case 3: pair.check_key(name, hinted.slot_hint); break;
        default: pair.set(name, words.value(max_value), words.until(), hinted.slot_hint);
        }
        pair.check_key(name, hinted.slot_hint);
        if (step % 1024 == 0) pair.table().take_dropped();
        if (step % (steps / 8) == 0) pair.check();
    }
    if (steps > 100000) CHECK(evacuations > 100);
    pair.check();
    const kvs::Pairs pairs = pair.table().pairs();
    check_listing(pairs, pair.model());
    check_writes(pairs, pair.model());
    // A copy keeps what it selects, large values too, while the table loses it.
    const std::vector<Shown> copies = copies_of(pair.table(), pair.model(), random);
    kvs::TableCopy copy(100);
    CHECK(copy.copy_from(pair.table()));
    const Model before = pair.model();
    for (const auto& [name, entry] : before) pair.erase(name);
    pair.table().take_dropped();
    while (pair.table().release_garbage()) {
    }
    pair.check();
    CHECK(pair.table().records().freed_bytes() == 0);
    check_copies(copies);
    check_listing(copy.pairs(), before);
    check_writes(copy.pairs(), before);
    for (const auto& [name, entry] : before) pair.set(name, entry.value, entry.until);
    pair.check();
}

// Many records of one size, of which most are freed; what is left moves.
void check_evacuation_of_short_records() {
    Pair pair(kvs::siphash13);
    const std::string value(26, 'v');
    for (int number = 0; number < 400000; ++number)
        pair.set("key" + std::to_string(number), value, number % 50 ? NO_EXPIRY : 5);
    for (int number = 0; number < 400000; ++number) {
        if (number % 10) pair.erase("key" + std::to_string(number));
        if (number % 1000 == 0)
            while (pair.table().release_garbage()) {
            }
    }
    while (pair.table().release_garbage()) {
    }
    pair.check();
    CHECK(pair.table().records().freed_bytes() <= std::size_t(8) << 20);
    for (int number = 0; number < 50000; ++number)
        pair.set("new" + std::to_string(number), value, NO_EXPIRY);
    pair.check();
}

// Allocation failures.

// Let the first allocation in `call` fail, then the second, and so on, until the call succeeds. It
// must throw std::bad_alloc each time, and then `check` is called. Return the number of failures.
int fail_each(const std::function<bool()>& call, const std::function<void()>& check) {
    for (int number = 0;; ++number) {
        allocations_left = number;
        bool succeeded = false;
        try {
            succeeded = call();
        } catch (const std::bad_alloc&) {
        }
        const bool was_reached = allocations_left < 0;
        allocations_left = -1;
        if (!was_reached) {
            CHECK(succeeded);
            return number;
        }
        check();
    }
}

void check_failures() {
    std::mt19937 random(4);
    Words words(random);
    Pair pair(kvs::siphash13);
    const std::function<void()> check = [&] { pair.check(); };
    int failures = 0;
    for (int round = 0; round < 3000; ++round) {
        const std::string name = words.name(5000), value = words.value(20000);
        const std::uint64_t until = words.until();
        failures += fail_each(
            [&] {
                pair.set(name, value, until);
                return true;
            },
            check);
    }
    CHECK(failures > 5);
    // A command of many keys, which needs regions, segments, a larger directory and heap at once.
    std::vector<std::string> names;
    for (int number = 0; number < 30000; ++number) names.push_back("n" + std::to_string(number));
    std::vector<Key> keys;
    std::vector<NewValue> values;
    const std::string value(100, 'v');
    for (const std::string& name : names) {
        keys.push_back(pair.key(name));
        values.push_back({{value.data(), 100}, true, nullptr, 7});
    }
    failures = 0;
    for (std::size_t count : {100, 1000, 30000})
        failures += fail_each(
            [&] {
                pair.table().reserve(keys.data(), values.data(), count);
                return true;
            },
            check);
    CHECK(failures > 3);
    allocations_left = 0;  // what is reserved needs no allocation
    for (std::size_t i = 0; i < keys.size(); ++i) pair.table().insert_or_assign(keys[i], values[i]);
    CHECK(allocations_left == 0);
    allocations_left = -1;
    for (const std::string& name : names) pair.model()[name] = {value, 7};
    check();
    CHECK(fail_each(
              [&] {
                  kvs::TableCopy copy(0);
                  return copy.copy_from(pair.table());
              },
              check) >= 2);
    kvs::DumpQuery smallest;
    smallest.limit = 1000;
    CHECK(fail_each(
              [&] {
                  kvs::TableCopy copy(0, smallest);
                  return copy.copy_from(pair.table()) && copy.pairs().count == smallest.limit;
              },
              check) >= 4);
    CHECK(fail_each(
              [&] {
                  kvs::SortedDump dump(pair.table().pairs());
                  return dump.size() == pair.model().size();
              },
              check) >= 2);
    // Evacuation without memory to move to changes nothing.
    for (int number = 0; number < 2000; ++number)
        pair.set("big" + std::to_string(number), std::string(8000, 'b'), NO_EXPIRY);
    for (int number = 0; number < 2000; ++number)
        if (number % 8) pair.erase("big" + std::to_string(number));
    CHECK(pair.table().has_garbage());
    for (int step = 0; pair.table().has_garbage(); ++step) {
        allocations_left = step % 2 ? -1 : 0;
        pair.table().release_garbage();
        allocations_left = -1;
        if (step % 64 == 0) check();
        CHECK(step < 10000);
    }
    check();
}

void check_failures_of_large_values() {
    std::vector<LargeValueRef> values;
    values.reserve(4000);
    const std::string text(std::size_t(9000) << 5, 'x');
    int failures = 0;
    for (int round = 0; round < 2000; ++round) {
        const std::size_t size = std::size_t(9000) << round % 6;
        failures += fail_each(
            [&] {
                values.emplace_back(LargeValue::create({text.data(), size}, true));
                return true;
            },
            [] {});
        CHECK(values.back().get()->data()[size - 1] == 'x');
    }
    CHECK(failures > 20);
    allocations_left = 0;  // to free needs no allocation
    values.clear();
    CHECK(allocations_left == 0);
    allocations_left = -1;
}

// Large values.

// Threads create values, hand them to others, and read them; meanwhile children are forked.
void check_large_values() {
    constexpr int THREADS = 3, ROUNDS = 400;
    const std::string text(10000000, 'x');
    std::vector<std::thread> threads;
    for (unsigned number = 0; number < THREADS; ++number)
        threads.emplace_back([number] {
            std::mt19937 random(number);
            std::vector<LargeValueRef> kept(8);
            for (int round = 0; round < ROUNDS; ++round) {
                const std::size_t size = 1 + random() % (1 << 10 << random() % 9);
                const char byte = char('a' + random() % 26);
                LargeValueRef value(LargeValue::create(std::string(size, byte), true));
                value.get()->acquire();
                std::thread reader([shared = value.get(), byte] {
                    const LargeValueRef reference(shared);
                    for (std::size_t i = 0; i < shared->size(); i += 64)
                        CHECK(shared->data()[i] == byte);
                });
                kept[random() % kept.size()] = std::move(value);
                reader.join();
            }
            for (const LargeValueRef& value : kept) {
                if (!value.get()) continue;
                const char* const at = value.get()->data();
                CHECK(at[0] == at[value.get()->size() - 1]);
            }
        });
    for (int round = 0; round < 30; ++round) {
        const pid_t child = fork();
        CHECK(child >= 0);
        if (!child) {
            alarm(60);
            for (std::size_t size : {1, 20000, 20000000 / 2})
                LargeValueRef(LargeValue::create({text.data(), size}, true));
            syscall(SYS_exit_group, 0);  // _exit(2) would report threads of the parent as leaks
        }
        int status = 0;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
    for (std::thread& thread : threads) thread.join();
}

// Sizes.

void check_size_of_expiring_pairs() {
    for (std::size_t key_size : {1, 16, 40})
        for (std::size_t value_size : {1, 2, 3, 40}) {
            const std::string name(key_size, 'k'), value(value_size, 'v');
            Pair plain(kvs::siphash13), expiring(kvs::siphash13);
            plain.set(name, value, NO_EXPIRY);
            expiring.set(name, value, 5);
            expiring.check();
            CHECK(expiring.table().records().bytes() + sizeof(kvs::Expiry) <=
                  plain.table().records().bytes() + 20);
        }
}

// Memory.

std::size_t resident_bytes() {
    std::FILE* const statm = std::fopen("/proc/self/statm", "r");
    long mapped = 0, resident = 0;
    CHECK(statm && std::fscanf(statm, "%ld %ld", &mapped, &resident) == 2);
    std::fclose(statm);
    return std::size_t(resident) * std::size_t(sysconf(_SC_PAGESIZE));
}

// A table whose values are all made of one text, so that only the table takes memory.
class Churn {
public:
    explicit Churn(std::size_t keys) : text_(std::size_t(1) << 24, 'v'), sizes_(keys) {
        resident_before_ = resident_bytes();
    }

    void set(std::size_t number, std::size_t size) {
        const std::string name = "key" + std::to_string(number);
        const Key key = make_key(name, kvs::siphash13);
        LargeValueRef large;
        if (size > kvs::MAX_INLINE_VALUE)
            large = LargeValueRef(LargeValue::create({text_.data(), size}, true));
        const NewValue value{
            {large.get() ? large.get()->data() : text_.data(), std::uint32_t(size)},
            true,
            large.get()};
        table_.reserve(&key, &value, 1);
        table_.insert_or_assign(key, value);
        end_command();
        live_ += size + (sizes_[number] ? 0 : name.size());
        live_ -= sizes_[number];
        sizes_[number] = size;
    }

    void erase(std::size_t number) {
        if (!sizes_[number]) return;
        const std::string name = "key" + std::to_string(number);
        CHECK(table_.erase(make_key(name, kvs::siphash13)));
        end_command();
        live_ -= sizes_[number] + name.size();
        sizes_[number] = 0;
    }

    std::size_t size_of(std::size_t number) const { return sizes_[number]; }

    void check(const char* phase) {
        const std::size_t resident = resident_bytes() - resident_before_;
        std::printf("%s: live %zu MiB, resident %zu MiB\n", phase, live_ >> 20, resident >> 20);
        CHECK(resident <= live_ + live_ / 2 + (std::size_t(32) << 20));
    }

private:
    void end_command() {
        table_.take_dropped();
        while (table_.release_garbage()) {
        }
    }

    const std::string text_;
    std::vector<std::size_t> sizes_;
    std::size_t live_ = 0;
    std::size_t resident_before_;
    Table table_{HASH_KEY, kvs::siphash13};
};

// Many short pairs: the memory of the table follows their number.
void check_memory_of_many_pairs() {
    constexpr std::size_t PAIRS = 5000000;
    Churn churn(PAIRS);
    for (int round = 0; round < 2; ++round) {
        for (std::size_t number = 0; number < PAIRS; ++number) churn.set(number, 1);
        for (std::size_t number = 0; number < PAIRS; ++number)
            if (number % 50) churn.erase(number);
        churn.check("98 % of many deleted");
        for (std::size_t number = 0; number < PAIRS; ++number) churn.erase(number);
        churn.check("all of many deleted");
    }
}

void check_memory() {
    constexpr std::size_t KEYS = 20000, MAX_SIZE = 16384;
    std::mt19937 random(5);
    Churn churn(KEYS);
    for (std::size_t number = 0; number < KEYS; ++number) churn.set(number, 1 + random() % 100);
    churn.check("short values");
    for (int round = 0; round < 12; ++round) {
        for (int step = 0; step < 40000; ++step) {
            const std::size_t number = random() % KEYS;
            const std::size_t size = churn.size_of(number) + random() % 4096;
            churn.set(number, size < 1400 ? 1 : std::min(size - 1400, MAX_SIZE));
        }
        churn.check("random walk");
    }
    for (std::size_t number = 0; number < KEYS; ++number)
        if (random() % 10) churn.erase(number);
    churn.check("90 % deleted");
    for (std::size_t size : {30, 9000, 700, 100000, 8192, 40, 3000}) {
        for (std::size_t number = 0; number < KEYS; ++number)
            if (random() % 10 == 0) churn.set(number, size - random() % (size / 4));
        churn.check("other sizes");
        for (std::size_t number = 0; number < KEYS; ++number)
            if (random() % 10) churn.erase(number);
        churn.check("90 % deleted");
    }
    // Each block was longer before.
    for (std::size_t number = 0; number < 8000; ++number) {
        churn.set(number, 62000);
        churn.erase(number);
        churn.set(number, 34000);
    }
    churn.check("shorter values");
    for (std::size_t number = 0; number < KEYS; ++number) churn.erase(number);
    for (std::size_t number = 0; number < 8; ++number) churn.set(number, std::size_t(1) << 24);
    churn.check("the largest values");
    for (std::size_t number = 0; number < KEYS; ++number) churn.erase(number);
    churn.check("nothing left");
}

}  // namespace

int main(int count, char** arguments) {
    const std::string part = count > 1 ? arguments[1] : "";
    if (part == "churn") {
        check_memory();
        check_memory_of_many_pairs();
    }
    if (part == "threads") check_large_values();
    if (!part.empty()) return 0;
    check_spelling();
    check_heap();
    check_table(kvs::siphash13, 12000, 120000, 9000);
    check_table(kvs::siphash13, 100, 4000, 100000);
    check_table(kvs::siphash13, 20000, 60000, 300);
    check_table(one_hash, 300, 6000, 9000);
    check_table(one_segment, 1200, 30000, 9000);
    check_evacuation_of_short_records();
    check_failures();
    check_failures_of_large_values();
    check_large_values();
    check_size_of_expiring_pairs();
    return 0;
}

// Tests of the compiled engine without an interpreter, for the sanitizers. Built with assertions.
// Exits with status 1 and a line at the first failed check.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "engine.hpp"

#define CHECK(condition)                                                         \
    do {                                                                         \
        if (!(condition)) {                                                      \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            std::exit(1);                                                        \
        }                                                                        \
    } while (false)

namespace {

using Model = std::map<std::string, std::string>;

const std::string HELP = "help\n";

std::string run(kvs::Engine& engine, const std::string& script, std::size_t budget = 65536,
                long long job = -1) {
    std::string output;
    std::size_t offset = 0;
    while (offset < script.size()) {
        kvs::Call call(script.data(), script.size(), offset, budget);
        if (job >= 0) call.set_cursor(job, 0);
        engine.execute(call);
        CHECK(call.offset > offset);
        offset = call.offset;
        if (call.output.size()) output.append(call.output.data(), call.output.size());
    }
    return output;
}

std::string listing(const Model& model) {
    std::string text;
    for (const auto& [key, value] : model) text += "(" + key + ", " + value + ")\n";
    return text;
}

kvs::Key key(const std::string& text, std::uint64_t hash) {
    return {{text.data(), std::uint32_t(text.size())}, false, true, hash, 0, nullptr};
}

// Insert and erase random keys, and compare with a map. `hash` makes good or bad distributions.
template <typename Hash>
void check_table(unsigned seed, int keys, int steps, Hash hash) {
    std::mt19937 random(seed);
    kvs::Table table;
    Model model;
    for (int step = 0; step < steps; ++step) {
        std::string name = "k" + std::to_string(random() % unsigned(keys));
        const kvs::Key each = key(name, hash(name));
        if (random() % 3) {
            const std::string value(1 + random() % 40, char('a' + random() % 26));
            table.reserve(&each, 1);
            table.insert_or_assign(each, kvs::Word{value.data(), std::uint32_t(value.size())});
            model[name] = value;
        } else {
            CHECK(table.erase(each) == (model.erase(name) == 1));
        }
        CHECK(table.size() == model.size());
    }
    for (int number = 0; number < keys; ++number) {
        const std::string name = "k" + std::to_string(number);
        const kvs::RecordId id = table.find(key(name, hash(name)));
        const auto found = model.find(name);
        CHECK((id != 0) == (found != model.end()));
        if (id) CHECK(table.records()[id].value().view() == found->second);
    }
    kvs::SortedDump dump(table.pairs());
    kvs::Buffer text;
    while (!dump.is_finished()) dump.append_block(text);
    CHECK(text.view_from(0) == listing(model));
}

void check_tables() {
    const auto good = [](const std::string& name) {
        return kvs::siphash13({1, 2}, name.data(), name.size());
    };
    check_table(1, 30000, 200000, good);
    check_table(2, 50, 200000, good);
    check_table(3, 3000, 20000, [](const std::string&) { return std::uint64_t(0); });
    check_table(4, 3000, 20000, [](const std::string&) { return ~std::uint64_t(0); });
    // All keys in one segment at any depth, with different homes.
    check_table(5, 5000, 50000, [&](const std::string& name) { return good(name) >> 18; });
    // One home for all keys, in different segments.
    check_table(6, 5000, 30000, [&](const std::string& name) { return good(name) << 28; });
}

// One command of many keys, which grows many segments at once.
void check_long_command() {
    kvs::Engine engine({5, 6}, HELP);
    Model model;
    std::string script = "WRITE [";
    for (int number = 0; number < 50000; ++number) {
        const std::string name = std::to_string(number % 40000), value = std::to_string(number);
        script += "(" + name + "," + value + ")";
        model[name] = value;
    }
    CHECK(run(engine, script + "]\nSHOW\n") == listing(model));
    CHECK(engine.revision() == 1);
}

// Commands of more words than a batch holds, compared with a map.
void check_long_lines() {
    std::mt19937 random(3);
    kvs::Engine engine({5, 7}, HELP);
    Model model;
    std::uint64_t revision = 0;
    const auto name = [&] {
        const char* const heads[] = {"", "key", "a-long-beginning-", "("};
        return heads[random() % 4] + std::to_string(random() % 30000);
    };
    for (int round = 0; round < 12; ++round) {
        std::vector<std::string> names;
        for (int number = 0; number < 20000; ++number) names.push_back(name());
        std::string script, expected;
        if (round % 3 == 0) {
            script = "WRITE [";
            for (const std::string& each : names) {
                const std::string value(1 + random() % 40, char('a' + random() % 26));
                script += "(" + each + "," + value + ")";
                model[each] = value;
            }
            ++revision;
        } else {
            const bool reads = round % 3 == 1;
            script = reads ? "READ [" : "DELETE [";
            std::vector<std::string> missing;
            for (const std::string& each : names) {
                script += each + (&each == &names.back() ? "" : ",");
                if (!reads && !model.erase(each)) missing.push_back(each);
            }
            std::sort(names.begin(), names.end());
            std::sort(missing.begin(), missing.end());
            for (const std::string& each : reads ? names : missing) {
                const auto found = model.find(each);
                const std::string value = found == model.end() ? "KVSERROR" : found->second;
                expected += "(" + each + "," + (reads ? value : "KVSMISSING") + ")";
            }
            if (!expected.empty()) expected = "[" + expected + "]\n";
            revision += !reads && missing.size() < names.size();
        }
        CHECK(run(engine, script + "]\n") == expected);
        kvs::Call unclosed(script.data(), script.size(), 0, 65536);
        engine.execute(unclosed);
        CHECK(unclosed.invalid.size() == 1 &&
              unclosed.invalid[0].valid_until > script.size() - 100);
        CHECK(engine.revision() == revision);
    }
    CHECK(run(engine, "SHOW\n") == listing(model));
}

// Threads write, read, delete, show, watch and lock at once. Replaying the recorded lines must give
// the same table, and the change batches must report the whole output of each job call.
void check_threads() {
    kvs::Engine engine({7, 8}, HELP);
    engine.start_recording(0);
    std::atomic<bool> is_over{false};
    std::string lines;
    std::uint64_t revision = 0;
    std::map<long long, std::string> published;
    const auto take = [&](std::unique_ptr<kvs::ChangeBatch> batches) {
        for (kvs::ChangeBatch* batch = batches.get(); batch; batch = batch->next.get()) {
            CHECK(batch->revision == revision + batch->count);
            revision = batch->revision;
            lines += batch->lines.view_from(0);
            if (batch->has_checkpoint) published[batch->job] += batch->output.view_from(0);
        }
        kvs::ChangeQueue::destroy(std::move(batches));
    };
    std::thread taker([&] {
        while (!is_over) {
            take(engine.change_queue().take_ready());
            engine.lock_quiescent();
            std::unique_ptr<kvs::ChangeBatch> batches_so_far = engine.change_queue().take_ready();
            const std::uint64_t now = engine.revision();
            const kvs::SortedDump dump(engine.table().pairs());
            CHECK(dump.size() == engine.table().size());
            engine.unlock();
            take(std::move(batches_so_far));
            CHECK(revision == now);
            engine.watch("k3", std::make_unique<kvs::ChangeBatch>());
            take(engine.change_queue().take_ready());
            engine.unwatch("k3");
        }
    });
    std::vector<std::thread> workers;
    std::vector<std::string> outputs(4);
    for (unsigned number = 0; number < 4; ++number)
        workers.emplace_back([&, number] {
            std::mt19937 random(number);
            for (int round = 0; round < 60; ++round) {
                std::string script;
                for (int line = 0; line < 200; ++line) {
                    const std::string one = "k" + std::to_string(random() % 500);
                    const std::string two = "k" + std::to_string(random() % 500);
                    switch (random() % 7) {
                    case 0: script += "DELETE [" + one + "," + two + "]\n"; break;
                    case 1: script += "READ [" + one + "," + two + "]\n"; break;
                    case 2: script += "ADD [(n" + one + ",1)] READ [" + one + "]\n"; break;
                    case 3: script += "WRITE [(" + one + ",\"a b\")] UNTIL 5\nEXPIRE 5\n"; break;
                    case 4:
                        script += "IF [(" + one + ",x)] WRITE [(" + two + "," +
                                  std::string(random() % 100 ? 50 : 20000, 'v') + ")] DELETE [" +
                                  one + "]\nCOUNT [k1]\n";
                        break;
                    default: script += "WRITE [(" + one + "," + two + ")(" + two + ",x)]\n";
                    }
                }
                outputs[number] += run(engine, script, 65536, number);
                run(engine, "SHOW\nREAD [k1]\n" + script, 4096);
            }
        });
    for (std::thread& worker : workers) worker.join();
    is_over = true;
    taker.join();
    take(engine.change_queue().take_ready());
    CHECK(!engine.change_queue().has_ready());
    CHECK(revision == engine.revision());
    for (unsigned number = 0; number < 4; ++number) CHECK(published[number] == outputs[number]);
    kvs::Engine replica({9, 9}, HELP);
    run(replica, lines);
    CHECK(replica.revision() == engine.revision());
    CHECK(run(replica, "SHOW\n") == run(engine, "SHOW\n"));
}

// Replace the table while another thread executes commands.
void check_replacing() {
    kvs::Engine engine({3, 4}, HELP);
    std::thread worker([&] {
        for (int round = 0; round < 300; ++round)
            run(engine, "WRITE [(a,1)(b,2)]\nREAD [a,b,c]\nDELETE [a]\nSHOW\n");
    });
    const std::vector<kvs::Key> keys{engine.make_key("a"), engine.make_key("c")};
    const std::vector<kvs::Word> values{keys[1], keys[0]};
    const std::vector<std::uint64_t> untils{kvs::NO_EXPIRY, 5};
    for (int round = 0; round < 300; ++round) engine.replace(keys, values, untils);
    worker.join();
    CHECK(engine.revision() == 900);
}

}  // namespace

int main() {
    check_tables();
    check_long_command();
    check_long_lines();
    check_threads();
    check_replacing();
    return 0;
}

// A fuzzer of scripts of any bytes. Executing a script at once, executing it line by line, and
// replaying its recorded lines must give the same. The first byte is the budget; the others are the
// script.
//
// libFuzzer guides it by coverage. Built with -DALONE, it draws pieces of the language at random
// for the number of seconds given as its argument.

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "engine.hpp"

namespace {

struct Outcome {
    std::string output;
    std::vector<std::size_t> invalid;
    std::size_t commands = 0;
    std::uint64_t revision = 0;
    std::string dump;

    bool operator==(const Outcome& other) const {
        return output == other.output && invalid == other.invalid && commands == other.commands &&
               revision == other.revision && dump == other.dump;
    }
};

std::string recorded(kvs::Engine& engine) {
    std::string lines;
    std::unique_ptr<kvs::ChangeBatch> taken = engine.change_queue().take_ready();
    for (kvs::ChangeBatch* batch = taken.get(); batch; batch = batch->next.get())
        lines += batch->lines.view_from(0);
    kvs::ChangeQueue::destroy(std::move(taken));
    return lines;
}

// Execute a script and add the results to `outcome`. `shift` is the offset of the script in a
// larger one.
void execute(kvs::Engine& engine, const std::string& script, std::size_t budget, std::size_t shift,
             bool is_job_call, Outcome& outcome) {
    for (std::size_t offset = 0; offset < script.size();) {
        kvs::Call call(script.data(), script.size(), offset, budget);
        if (is_job_call) call.set_cursor(1, 0);
        engine.execute(call);
        if (call.offset <= offset) std::abort();
        offset = call.offset;
        outcome.output += call.output.view_from(0);
        for (const kvs::Invalid& each : call.invalid)
            outcome.invalid.push_back(shift + each.offset);
        outcome.commands += call.commands;
    }
}

void finish(kvs::Engine& engine, Outcome& outcome) {
    outcome.revision = engine.revision();
    Outcome last;
    execute(engine, "SHOW\n", 0, 0, false, last);
    outcome.dump = last.output;
}

void check(const std::string& script, std::size_t budget) {
    const std::string help = "help\n";
    kvs::Engine whole({1, 2}, help), lines({3, 4}, help), replayed({5, 6}, help);
    whole.start_recording(0);
    Outcome of_whole, of_lines, of_replayed;
    execute(whole, script, budget, 0, budget & 1, of_whole);
    for (std::size_t start = 0, end = 0; start < script.size(); start = end) {
        end = script.find('\n', start);
        end = end == std::string::npos ? script.size() : end + 1;
        execute(lines, script.substr(start, end - start), 0, start, false, of_lines);
    }
    const std::string record = recorded(whole);
    execute(replayed, record, 65536, 0, false, of_replayed);
    finish(whole, of_whole);
    finish(lines, of_lines);
    finish(replayed, of_replayed);
    if (!(of_whole == of_lines)) std::abort();
    kvs::ScriptCheck checked;
    checked.run(script.data(), script.size());
    std::vector<std::size_t> invalid;
    for (const kvs::Invalid& each : checked.invalid) invalid.push_back(each.offset);
    if (invalid != of_whole.invalid || checked.commands != of_whole.commands) std::abort();
    if (of_replayed.dump != of_whole.dump || of_replayed.revision != of_whole.revision)
        std::abort();
    if (!of_replayed.invalid.empty() || of_replayed.commands != of_replayed.revision) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size) check({reinterpret_cast<const char*>(data) + 1, size - 1}, std::size_t(data[0]) * 3);
    return 0;
}

#ifdef ALONE

// More words than a batch holds with -DKVS_FEW_WORDS.
#define TEN(text) text text text text text text text text text text
#define MANY_KEYS TEN("a,b,cc,a,key,b,c,")
#define MANY_PAIRS TEN("(a,b)(cc,d)(a,KVS)(key,12345678)(b,1)(c,2)(d,3)")

int main(int, char** arguments) {
    // clang-format off
    const char* const pieces[] = {
        "WRITE", "READ", "DELETE", "SHOW", "WAIT", "BACKUP", "HELP",
        "[", "]", "(", ")", ",", " ", "\t", "\r", "\n", "\n", "#", "a", "b", "KVSERROR",
        "WRITE [(a,b)(c,d)]\n", "READ [a,b]\n", "DELETE [a]\n", MANY_KEYS, MANY_PAIRS,
        "ADD", "IF", "COUNT", "CLEAR", "EXPIRE", "UNTIL", "LIMIT", "AFTER", "1", "-5", "\"", "\\",
        "\\n", "\\x0", "IF [(a,b)] ", "IF [(a,KVSERROR)] ", "ADD [(n,1)(n,-3)] ", "WRITE [(a,1)] ",
        "READ [a,b,n] ", "DELETE [a,b] ", "UNTIL 5 ", "EXPIRE 5\n", "SHOW [a] AFTER [a] LIMIT 1",
        "COUNT [a,k]\n", "CLEAR [b]\n", "\"two words\"", "\"KVSERROR\"",
        "0123456789", "abcdefghijklmnopqrstuvwxyz0123456789-_+*"};
    // clang-format on
    const auto end =
        std::chrono::steady_clock::now() + std::chrono::seconds(std::atoi(arguments[1]));
    std::mt19937 random(std::random_device{}());
    while (std::chrono::steady_clock::now() < end) {
        std::string script;
        for (auto left = random() % 200; left; --left) {
            if (random() % 50)
                script += pieces[random() % (sizeof pieces / sizeof *pieces)];
            else
                script += char(random());
        }
        check(script, random() % 1000);
    }
}

#endif

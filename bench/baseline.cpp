// The C++ baseline: baseline DIR runs the jobs of DIR as bench/baseline.py does, with the least C++ that
// is correct: one thread, one std::unordered_map, WRITE, READ and DELETE only, no diagnostics for
// invalid lines. NAME.job gives NAME.baseline. Prints the seconds of its loop, files included.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

using Table = std::unordered_map<std::string, std::string>;

// Remove the text before the next `end`, and `end`, from the front of `text`; return the text before.
static std::string_view take(std::string_view& text, char end) {
    const std::size_t size = std::min(text.find(end), text.size());
    const std::string_view word = text.substr(0, size);
    text.remove_prefix(std::min(size + 1, text.size()));
    return word;
}

static std::vector<std::string> sorted_keys(std::string_view list) {
    std::vector<std::string> keys;
    list = take(list, ']');
    while (!list.empty()) keys.emplace_back(take(list, ','));
    std::sort(keys.begin(), keys.end());
    return keys;
}

static void write(std::string_view list, Table& table) {
    while (list.size() > 1) {
        take(list, '(');
        std::string key(take(list, ','));
        table[std::move(key)] = take(list, ')');
    }
}

static void read(std::string_view list, const Table& table, std::string& output) {
    output += '[';
    for (const std::string& key : sorted_keys(list)) {
        const auto pair = table.find(key);
        output += '(';
        output += key;
        output += ',';
        output += pair == table.end() ? "KVSERROR" : pair->second;
        output += ')';
    }
    output += "]\n";
}

static void remove(std::string_view list, Table& table, std::string& output) {
    std::string missing;
    for (const std::string& key : sorted_keys(list))
        if (!table.erase(key)) missing += "(" + key + ",KVSMISSING)";
    if (!missing.empty()) output += "[" + missing + "]\n";
}

int main(int, char** arguments) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::filesystem::path> jobs;
    for (const auto& entry : std::filesystem::directory_iterator(arguments[1]))
        if (entry.path().extension() == ".job") jobs.push_back(entry.path());
    std::sort(jobs.begin(), jobs.end());
    Table table;
    for (std::filesystem::path path : jobs) {
        std::ifstream file(path, std::ios::binary);
        std::string script(std::filesystem::file_size(path), '\0'), output;
        file.read(script.data(), std::streamsize(script.size()));
        for (std::string_view rest = script; !rest.empty();) {
            std::string_view line = take(rest, '\n');
            const std::string_view name = take(line, '[');
            if (name == "WRITE ") write(line, table);
            if (name == "READ ") read(line, table, output);
            if (name == "DELETE ") remove(line, table, output);
        }
        std::ofstream(path.replace_extension(".baseline"), std::ios::binary) << output;
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::printf("%.6f\n", seconds.count());
}

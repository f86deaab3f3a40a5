// The floor in C++: floor DIR runs the jobs of DIR as bench/baseline.py does, with the least C++ that is
// right: one thread, one std::unordered_map, WRITE, READ and DELETE only, no word about a bad line.
// NAME.job gives NAME.floor. Prints the seconds of its loop, files included.

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

// Take what stands before the next `end` from the front of `text`, and that too.
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
        const auto found = table.find(key);
        output += '(';
        output += key;
        output += ',';
        output += found == table.end() ? "KVSERROR" : found->second;
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
    const auto began = std::chrono::steady_clock::now();
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
        std::ofstream(path.replace_extension(".floor"), std::ios::binary) << output;
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - began;
    std::printf("%.6f\n", seconds.count());
}

// General lines: those of several steps, with a condition, an expiry, an ADD, quoted words or words
// of more than 40 bytes, and COUNT, CLEAR, EXPIRE and SHOW with arguments.
//
// How it works: a line is parsed into keys, each of them once, and steps that refer to the keys.
// Under the engine's lock, all keys are looked up first. The steps then read and set the values in
// the line, not in the table; so a failed ADD or condition, an output that is too long and a lack
// of memory change nothing. At the end, each key that a WRITE, ADD or DELETE names has one change:
// from what it was to what it is. That is what the table, the watchers and the journal get.
//
// Cost: of the lines of a batch, about 120 bytes for each different key, 16 for each step that
// names it, and 40 for each pair. Few keys are told apart by comparing their hashes, more by a hash
// table.
//
// The .cpp file is a translation unit of its own, as long_line.cpp is.
#pragma once

#include <memory>
#include <vector>

#include "captured_values.hpp"
#include "general_parser.hpp"
#include "removal.hpp"
#include "state.hpp"
#include "table_dump.hpp"

namespace kvs {

// Maximum bytes of the output of a line, SHOW excepted.
constexpr std::size_t MAX_LINE_OUTPUT_BYTES = std::size_t(1) << 28;

// Space for the text that a batch of lines makes: the output of the call, its copy in the change
// batch of a job call, and the record for the journal.
class TextSpace {
public:
    // `output_bytes` and `record_bytes` are reserved already.
    TextSpace(Buffer& output, std::size_t output_bytes, std::size_t max_line_bytes)
        : output_(output), output_bytes_(output_bytes), max_line_bytes_(max_line_bytes) {}

    // Let `published` have the last `bytes` bytes of the output and all of the batch.
    void set_published(Buffer& published, std::size_t bytes) {
        published_ = &published;
        unpublished_bytes_ = bytes;
    }

    void set_record(Buffer& record, std::size_t bytes) {
        record_ = &record;
        record_bytes_ = bytes;
    }

    // The maximum bytes of the output of a line.
    std::size_t max_line_bytes() const { return max_line_bytes_; }
    bool has_record() const { return record_; }

    // Reserve space for more bytes. Each throws std::bad_alloc.

    void reserve_output(std::size_t bytes) {
        output_.reserve_more(output_bytes_ + bytes);
        if (published_) published_->reserve_more(unpublished_bytes_ + output_bytes_ + bytes);
        output_bytes_ += bytes;
    }

    void reserve_record(std::size_t bytes) {
        record_->reserve_more(record_bytes_ + bytes);
        record_bytes_ += bytes;
    }

private:
    Buffer& output_;
    std::size_t output_bytes_;
    const std::size_t max_line_bytes_;
    Buffer* published_ = nullptr;
    std::size_t unpublished_bytes_ = 0;
    Buffer* record_ = nullptr;  // null if lines are not recorded
    std::size_t record_bytes_ = 0;
};

// Insert a pair of any form into a table that does not have its key. Throws std::bad_alloc.
void insert_pair(Table& table, const Key& key, const Word& value, std::uint64_t until);

// What a line did.
struct Outcome {
    std::size_t output_bytes = 0;
    bool has_changed = false;
    bool is_refused = false;  // because its output is too long
};

// The general lines of a batch. Used by one thread.
class GeneralLines {
public:
    explicit GeneralLines(HashKey hash_key);
    ~GeneralLines();

    // Remove all lines.
    void clear();

    // Parse the line in [at, end), without its line ending, and add it unless it is invalid; return
    // its kind. Throws std::bad_alloc.
    Kind parse(const char* at, const char* end);

    std::size_t size() const { return lines_.size(); }
    // The maximum bytes that `write_record` appends for all lines, but for an EXPIRE: `execute`
    // reserves space for that.
    std::size_t max_record_bytes() const { return max_record_bytes_; }
    // A measure of the memory that all lines take.
    std::size_t word_count() const { return keys_.size() + pairs_.size() + runs_.size(); }

    void prefetch(const Table& table, std::size_t max_keys);
    void clear_slot_hints();

    // Each of these is of the line of that number.

    // Return whether the journal records the line as it is written.
    bool is_recorded_as_written(std::size_t number) const { return lines_[number].is_plain_write; }

    // Execute the line, under the engine's lock. Append the changes of watched keys to `changes`,
    // and reserve space for its output. Throws std::bad_alloc; then nothing has changed.
    Outcome execute(std::size_t number, const EngineState& state, std::vector<Change>* changes,
                    TextSpace& space);

    // Append the output, for which space is reserved.
    void write(std::size_t number, Buffer& out) const;

    // Append the line that the journal records, for which space is reserved.
    void write_record(std::size_t number, Buffer& out);

    // The arguments of a SHOW.
    DumpQuery query(std::size_t number) const;

private:
    friend class LineBuilder;

    // A key of a line, and what the line has made of it so far.
    struct LineKey {
        Key key;
        KeyValue value;
        std::uint64_t until;         // NO_EXPIRY if it does not expire
        std::int64_t sum;            // of an ADD
        std::uint32_t step, run;     // the last step that named it, and its run there
        std::uint32_t spelled_size;  // bytes of its canonical spelling
        bool has_existed;            // before the line
        bool is_changed;             // whether a WRITE, ADD or DELETE names it
        bool has_sum;
    };

    // A key and its value in the list of an IF, WRITE or ADD.
    struct Pair {
        std::uint32_t key;
        KeyValue value;
    };

    // A key in a step and the times it is named there.
    struct Run {
        std::uint64_t sort_prefix;  // of the key, so that most comparisons of a sort look at no key
        std::uint32_t key;
        std::uint32_t times;
    };

    struct Step {
        StepKind kind;
        ExpiryForm expiry;
        std::uint64_t ms;
        std::size_t first_pair, end_pair;
        std::size_t first_run, end_run;  // in ascending order of the keys; none of a WRITE
    };

    struct Line {
        Kind kind;
        bool is_plain_write;  // one WRITE without IF, FOR and UNTIL
        bool has_for;
        bool shows_expiries;
        bool has_after;
        std::size_t first_key, end_key;
        std::size_t first_step, end_step;
        std::size_t first_changed, end_changed;
        std::size_t first_prefix, end_prefix;
        Word after;
        std::uint64_t limit;
        std::uint64_t ms;
        std::size_t record_bytes;  // maximum
        // Of the execution:
        std::size_t first_captured;
        std::size_t output_bytes;
        std::size_t failed_step;  // or `end_step`
        std::size_t number;       // of a COUNT or CLEAR
    };

    template <typename Item>
    using Items = PodVector<Item, std::size_t(1) << 32>;

    std::uint32_t add_key(Line& line, const Spelling& spelling);
    std::uint32_t find_or_add(Line& line, const Word& word, bool is_plain);
    void grow_index(const Line& line);
    Word unquoted(const Spelling& spelling);

    Outcome execute_steps(Line& line, const EngineState& state, std::vector<Change>* changes,
                          TextSpace& space);
    void look_up(const Line& line, const Table& table);
    void prefetch(const Table& table, std::size_t begin, std::size_t end);
    bool execute_step(Line& line, const Step& step, std::uint64_t now,
                      std::size_t max_output_bytes);
    bool fulfils(const Step& step) const;
    bool add_numbers(const Step& step);
    void capture(Line& line, const Step& step, std::size_t max_output_bytes);
    bool apply(const Line& line, const EngineState& state, std::vector<Change>* changes);
    void report_change(const EngineState& state, const LineKey& key,
                       std::vector<Change>& changes) const;
    PrefixSet prefix_set(const Line& line) const;
    Outcome execute_alone(Line& line, const EngineState& state, std::vector<Change>* changes,
                          TextSpace& space);
    Outcome remove_all(Line& line, const EngineState& state, std::vector<Change>* changes,
                       TextSpace& space);
    void write_runs(const Step& step, std::size_t& captured, Buffer& out) const;
    void write_missing(const Step& step, Buffer& out) const;
    void write_changes(const Line& line, Buffer& out) const;

    const HashKey hash_key_;
    Items<Line> lines_;
    std::size_t max_record_bytes_ = 0;
    Items<Step> steps_;
    Items<LineKey> keys_;
    Items<Pair> pairs_;
    Items<Run> runs_;
    Items<std::uint32_t> changed_;  // keys, in the order of their changes in a record
    std::vector<Word> prefixes_;
    CapturedValues captured_;
    Removal removal_;

    // Memory of words whose spellings have escapes.
    std::vector<std::unique_ptr<char[]>> blocks_;
    char* block_at_ = nullptr;
    std::size_t block_bytes_ = 0;            // left
    std::vector<LargeValue*> large_values_;  // of the pairs; a reference to each

    std::vector<std::uint32_t> index_;  // of the line that is parsed: numbers of keys plus 1
    const char* line_end_ = nullptr;

    // Of the line that is executed:
    Items<Key> written_keys_;
    Items<NewValue> written_values_;
    Buffer numbers_;
};

}  // namespace kvs

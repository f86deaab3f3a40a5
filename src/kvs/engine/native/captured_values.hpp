// Values as commands have found them under the engine's lock, to be written after it.
//
// A value that lies in a record is copied, because the record may change. Of a large value, a
// reference is taken. A value of the script is only referred to.
//
// Used by one thread.
#pragma once

#include <charconv>

#include "general_parser.hpp"
#include "large_value.hpp"
#include "output_format.hpp"
#include "pod_vector.hpp"
#include "records.hpp"

namespace kvs {

// The decimal digits of a number.
class NumberText {
public:
    explicit NumberText(std::int64_t number)
        : end_(std::to_chars(text_, text_ + sizeof text_, number).ptr) {}
    std::string_view view() const { return {text_, std::size_t(end_ - text_)}; }

private:
    char text_[MAX_NUMBER_BYTES];
    const char* const end_;
};

// The value of a key at one step of a line.
struct KeyValue {
    enum class State : std::uint8_t { MISSING, WORD, NUMBER };

    State state;
    bool is_plain;      // of a word: its canonical spelling is its bytes
    bool is_in_record;  // of a word: `at` is in a record, not in the script
    std::uint32_t size;
    union {
        const char* at;
        std::int64_t number;
        std::size_t offset;  // of a captured value that was in a record
    };
    LargeValue* large;  // of which the word is the bytes, or null

    static KeyValue missing() { return {State::MISSING, true, false, 0, {nullptr}, nullptr}; }

    static KeyValue of_number(std::int64_t number) {
        KeyValue value{State::NUMBER, true, false, 0, {nullptr}, nullptr};
        value.number = number;
        return value;
    }

    static KeyValue of_record(const ValueView& value) {
        return {State::WORD, value.is_plain, true, std::uint32_t(value.size),
                {value.at},  value.large};
    }

    bool is_missing() const { return state == State::MISSING; }
    std::string_view view() const { return {at, size}; }

    // Return the bytes of its spelling.
    std::size_t spelled_size() const {
        switch (state) {
        case State::WORD:
            return large ? large->spelled_size() : kvs::spelled_size(view(), is_plain);
        case State::NUMBER: return NumberText(number).view().size();
        default: return MISSING_VALUE.size();
        }
    }

    // Append its spelling to `out`, in which space is reserved.
    void append_to(Buffer& out) const {
        switch (state) {
        case State::WORD: append_spelled(out, view(), is_plain); return;
        case State::NUMBER: out.append(NumberText(number).view()); return;
        default: out.append(MISSING_VALUE);
        }
    }
};

class CapturedValues {
public:
    CapturedValues() = default;
    ~CapturedValues() { truncate(0); }

    std::size_t size() const { return values_.size(); }

    // Add a value. Throws std::bad_alloc; then nothing is added.
    void add(const KeyValue& value) {
        const bool is_copied =
            value.state == KeyValue::State::WORD && value.is_in_record && !value.large;
        if (is_copied) copied_.reserve_more(value.size);
        KeyValue& captured = values_.push_uninitialized();
        captured = value;
        if (is_copied) {
            captured.offset = copied_.size();
            copied_.append(value.view());
        } else if (value.large) {
            value.large->acquire();
        }
    }

    // Return a value, which is valid until the next `add`.
    KeyValue operator[](std::size_t i) const {
        KeyValue value = values_[i];
        if (value.state == KeyValue::State::WORD && value.is_in_record && !value.large)
            value.at = copied_.data() + value.offset;
        return value;
    }

    // Remove all values but the first `size`.
    void truncate(std::size_t size) {
        for (std::size_t i = size; i < values_.size(); ++i)
            if (values_[i].large) values_[i].large->release();
        values_.truncate(size);
        if (!size) copied_.clear();
    }

private:
    PodVector<KeyValue, std::size_t(1) << 32> values_;
    Buffer copied_;
};

}  // namespace kvs

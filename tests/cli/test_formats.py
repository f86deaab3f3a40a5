"""The formats of import and export: round trips, other programs' files, and bad rows."""

import json
from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvs.cli import formats
from kvs.cli.formats import FORMATS, BadRow, Record, format_of
from kvs.language.grammar import MAX_VALUE_BYTES

keys = st.binary(min_size=1, max_size=60)
values = st.binary(max_size=60)
texts = st.text("ab=,;#'\"\\ \t\r\n\0é{}$`export", max_size=12).map(str.encode)
any_keys = keys | texts.filter(bool) | st.just(b"key")
any_values = values | texts | st.just(b"value")


def lines(data: bytes) -> list[bytes]:
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + [part for part in parts[-1:] if part]


def read(name: str, data: bytes) -> list[Record | BadRow]:
    return list(FORMATS[name].read(lines(data)))


def written(name: str, records: Iterable[Record]) -> bytes:
    return b"".join(FORMATS[name].write(records))


@pytest.mark.parametrize("name", FORMATS)
@given(st.lists(st.tuples(any_keys, any_values), max_size=6))
@example([(b"key", b"value")])
@example([(b"\xef\xbb\xbf", b"1")])
@example([(b"export a", b"'x'"), (b"#", b" "), (b'"', b'"'), (b"\xef\xbb\xbf", b"\xff\0")])
def test_written_records_are_read_again(name: str, pairs: list[tuple[bytes, bytes]]) -> None:
    records = [Record(*pair) for pair in pairs]
    assert read(name, written(name, records)) == records


@pytest.mark.parametrize(("name", "data"), [("jsonl", b'{"key":"a","value":"1"}'), ("env", b"a=1")])
def test_byte_order_mark_is_no_part_of_a_record(name: str, data: bytes) -> None:
    assert read(name, b"\xef\xbb\xbf" + data) == [Record(b"a", b"1")]


records_with_expiries = st.builds(
    Record, any_keys, any_values, st.none() | st.integers(0, 10**15 - 1)
)


@given(st.lists(records_with_expiries, max_size=6))
def test_json_lines_keep_expiries(records: list[Record]) -> None:
    assert read("jsonl", written("jsonl", records)) == records


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_records_or_bad_rows(name: str, data: bytes) -> None:
    last = 0
    for row in read(name, data):
        if isinstance(row, BadRow):
            assert last < row.line <= data.count(b"\n") + 1
            assert row.reason.isprintable()
            last = row.line
        else:
            assert 1 <= len(row.key) <= 1024


class TestCsv:
    def test_output_is_that_of_rfc_4180(self) -> None:
        records = [Record(b"a", b"1"), Record(b"b,c", b'say "hi"\r\n'), Record(b"d", b"")]
        assert written("csv", records) == (b'key,value\r\na,1\r\n"b,c","say ""hi""\r\n"\r\nd,\r\n')

    def test_header_is_optional_and_only_the_first_row(self) -> None:
        rows = [Record(b"a", b"1"), Record(b"key", b"value")]
        assert read("csv", b"\xef\xbb\xbfkey,value\na,1\n\nkey,value\n") == rows
        assert read("csv", b"a,1\r\nkey,value") == rows

    def test_bad_rows_have_the_number_of_their_first_line(self) -> None:
        data = b'a,1\n"b\nc",2,3\nd\n"e"x,1\nf,6\n,7\n"g'
        rows = read("csv", data)
        assert [row for row in rows if isinstance(row, Record)] == [
            Record(b"a", b"1"),
            Record(b"f", b"6"),
        ]
        bad = {row.line: row.reason for row in rows if isinstance(row, BadRow)}
        assert list(bad) == [2, 4, 5, 7, 8]
        assert bad[2] == "a row is a key and a value, the fields here are 3"
        assert bad[4] == "a row is a key and a value, the fields here are 1; a comma separates them"
        assert bad[8] == "a quote is opened in this row and not closed"

    def test_carriage_return_alone_ends_no_row(self) -> None:
        assert read("csv", b"a,1\na,b\rc,d\r\ne,2\n") == [
            Record(b"a", b"1"),
            BadRow(2, "a carriage return is in no quotes, and no newline follows it"),
            Record(b"e", b"2"),
        ]

    def test_field_over_the_limit_is_a_value_that_is_too_long(self) -> None:
        data = b"a,%b\nb,2\n" % (b"v" * (MAX_VALUE_BYTES + 1))
        reason = "a value is at most 16777216 bytes, a field here has more"
        assert read("csv", data) == [BadRow(1, reason), Record(b"b", b"2")]

    def test_row_over_the_limit_is_bad(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(formats, "MAX_ROW_BYTES", 100)
        row = b"x,1\n"
        rows = read("csv", 50 * row + b'y,"' + 50 * row)
        assert rows[:50] == 50 * [Record(b"x", b"1")]
        assert rows[50] == BadRow(51, "a row is at most 100 bytes")


class TestJsonLines:
    def test_words_that_are_not_utf_8_are_in_base64(self) -> None:
        records = [Record("é".encode(), b"\xff"), Record(b"\xfe", b"", 5)]
        assert written("jsonl", records).decode().splitlines() == [
            '{"key":"é","value_base64":"/w=="}',
            '{"key_base64":"/g==","value":"","until":5}',
        ]

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            (b"[1]", 'a line is {"key": "...", "value": "..."}'),
            (b'{"key":"a"}', "a record has one of 'value' and 'value_base64'"),
            (b'{"key":"a","key_base64":"YQ==","value":""}', "a record has one of 'key' and "
             "'key_base64'"),
            (b'{"key":"a","value":5}', "the value is a string"),
            (b'{"key_base64":5,"value":""}', "the key is a string"),
            (b'{"key":"a","value_base64":"a"}', "'value_base64' is not base64"),
            (b'{"key":"a","value":"","ttl":1}', "'ttl' is not a member of a record"),
            (b'{"key":"a","value":"","until":-1}', "'until' is milliseconds since the epoch, of at "
             "most 15 digits"),
            (b'{"key":"a","value":"","until":true}', "'until' is milliseconds since the epoch, of "
             "at most 15 digits"),
            (b'{"key":"a"', "not JSON: Expecting ',' delimiter at character 11"),
            (b'{"key":"\xff"}', "byte 9 is not UTF-8"),
            (b"[" * 100_000, "not a record: it is nested too deeply"),
            (b'{"until":%b}' % (b"9" * 5000), "a whole number has more than 4300 digits"),
            (b'{"\\ud800":1}', r"'\ud800' is not a member of a record"),
            (b'{"key":"\\udcff","value":""}', "the key has half of a surrogate pair, which is not "
             "text; bytes are in 'key_base64'"),
            (b'{"key":"a","key":"b","value":""}', "'key' is given twice"),
        ],
    )  # fmt: skip
    def test_bad_line_has_a_reason(self, line: bytes, reason: str) -> None:
        assert read("jsonl", b"\n" + line + b"\n") == [BadRow(2, reason)]

    def test_each_line_is_compact_json(self) -> None:
        [line] = written("jsonl", [Record(b"a b", b'"\n')]).splitlines()
        assert json.loads(line) == {"key": "a b", "value": '"\n'}
        assert line == b'{"key":"a b","value":"\\"\\n"}'


class TestEnv:
    def test_files_of_other_programs_are_read(self) -> None:
        data = (
            b"# comment\n; another\n\n  \nA=1\r\nexport B = two words \n"
            b'net.ipv4.ip_forward = 0\nC=\'raw \\n $x\' \nD="a\\n\\"b\\x41"\nE=\nF=x # y\nG=a=b'
        )
        assert read("env", data) == [
            Record(b"A", b"1"),
            Record(b"B", b"two words"),
            Record(b"net.ipv4.ip_forward", b"0"),
            Record(b"C", b"raw \\n $x"),
            Record(b"D", b'a\n"bA'),
            Record(b"E", b""),
            Record(b"F", b"x # y"),
            Record(b"G", b"a=b"),
        ]

    def test_output_quotes_what_a_shell_would_change(self) -> None:
        records = [Record(b"A", b"1.5"), Record(b"B", b"two words"), Record(b"a b", b"$x"),
                   Record(b"E", b"")]  # fmt: skip
        assert written("env", records) == b'A=1.5\nB="two words"\n"a b"="$x"\nE=\n'

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            (b"A", "expected KEY=VALUE, not 'A'"),
            (b'A="x', 'a value that begins with " ends with the next ", and its escapes are '
             r"\" \\ \n \r \t \0 \xHH"),
            (b'A="\\q"', 'a value that begins with " ends with the next ", and its escapes are '
             r"\" \\ \n \r \t \0 \xHH"),
            (b"A='x", "a value that begins with ' ends with the next '"),
            (b"A='x'y", "a value that begins with ' ends with the next '"),
            (b"=x", "a key has at least 1 byte, this one is empty"),
        ],
    )  # fmt: skip
    def test_bad_line_has_a_reason(self, line: bytes, reason: str) -> None:
        [bad] = read("env", line)
        assert isinstance(bad, BadRow)
        assert bad.line == 1
        assert reason in bad.reason


def test_format_is_told_by_the_end_of_a_name() -> None:
    for name, form in {
        b"a.csv": "csv", b"x/.env": "env", b"prod.env": "env", b"a.jsonl": "jsonl",
        b"a.ndjson": "jsonl", b"sysctl.conf": "env",
    }.items():  # fmt: skip
        assert format_of(name) is FORMATS[form]
    for name in (b"a", b"-", b"a.csv.gz", b"csv"):
        assert format_of(name) is None

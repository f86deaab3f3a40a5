"""The form of output, to the byte."""

from kvs.language import output_format


def test_read_output() -> None:
    assert (
        output_format.format_pairs([(b"a", b"1"), (b"b", b"KVSERROR")]) == b"[(a,1)(b,KVSERROR)]\n"
    )


def test_delete_output() -> None:
    assert output_format.format_missing_keys([b"a"]) == b"[(a,KVSMISSING)]\n"
    assert output_format.format_missing_keys([b"a", b"b"]) == b"[(a,KVSMISSING)(b,KVSMISSING)]\n"


def test_listing_has_one_line_per_pair_across_blocks() -> None:
    assert list(output_format.format_listing([])) == []
    for count in (
        1,
        output_format.PAIRS_PER_BLOCK,
        output_format.PAIRS_PER_BLOCK + 1,
        3 * output_format.PAIRS_PER_BLOCK,
    ):
        pairs = [(b"k%d" % number, b"v") for number in range(count)]
        expected = b"".join(b"(%b, v)\n" % key for key, _ in pairs)
        assert b"".join(output_format.format_listing(pairs)) == expected


def test_help_lists_every_command() -> None:
    names = [line.split()[0] for line in output_format.HELP.splitlines()]
    assert names == [b"WRITE", b"READ", b"DELETE", b"SHOW", b"WAIT", b"BACKUP", b"HELP", b"#"]

"""The command language to the byte, by both engines: results, lines, positions of errors."""

import re
import signal
from pathlib import Path

import pytest

from tests.contract.program import (
    content,
    ended_by,
    has_engine,
    kvs,
    lines_of,
    started,
    until,
    write_jobs,
)

HELP = b"""\
WRITE [(key,value)(key,value)...]  set every pair; the pairs never expire
WRITE [...] FOR milliseconds       set every pair; the pairs expire after that
WRITE [...] UNTIL milliseconds     the same, at that time since the epoch
READ [key,key,...]                 write the pairs; KVSERROR: the key is missing
DELETE [key,key,...]               remove the keys; KVSMISSING: it was missing
ADD [(key,number)...]              add whole numbers, and write the sums
ADD [...] FOR or UNTIL             the same, and the pairs expire then
WRITE [...] READ [...] ...         one change of several of the lines above
IF [(key,value)...] WRITE [...]    only if all pairs are so; KVSERROR: missing
SHOW                               write every pair, in order of the keys
SHOW [prefix,...]                  the pairs whose keys begin with a prefix
SHOW AFTER [key] LIMIT number      the pairs after a key, at most that many
SHOW UNTIL                         write also when the pairs expire
COUNT                              write the number of keys
COUNT [prefix,...]                 the number of keys that begin with a prefix
CLEAR [prefix,...]                 remove those keys, and write their number
EXPIRE milliseconds                remove the pairs that expire until that time
WAIT milliseconds                  pause this job or session
BACKUP                             write a backup beside the job
HELP                               write this list
# ...                              a comment
"two words"                        a word in quotes may have any bytes; escapes:
                                   \\" \\\\ \\n \\r \\t \\0 \\xHH; "" is an empty value
"""

RESULTS = {
    "document": (
        b"READ [c1]\n"
        b"WRITE [(c1,v1)(key2,some-value)]\n"
        b"READ [key2,c1]\n"
        b"WRITE [(key2,other)(aKey,aValue)]\n"
        b"DELETE [c1,nothing]\n"
        b"WAIT 1\n"
        b"SHOW\n"
        b"DELETE [aKey,key2]\n",
        b"[(c1,KVSERROR)]\n"
        b"[(c1,v1)(key2,some-value)]\n"
        b"[(nothing,KVSMISSING)]\n"
        b"Waiting...\n"
        b"(aKey, aValue)\n(key2, other)\n",
    ),
    "empty_store": (b"SHOW\n", b""),
    "no_lines": (b"", b""),
    "help": (b"HELP\n", HELP),
    "wait": (b"WAIT 0\nWAIT1\n WAIT \t 0000000001\t\n", b"Waiting...\nWaiting...\n"),
    "comments": (b"# WRITE [(\n\n \t \n\t#\xff\0\rx\n#", b""),
    "read_order": (
        b"WRITE [(rb,2)(ra,1)(rB,3)(r\xff,4)(r,5)]\nREAD [rb,r\xff,rB,gone,r,ra,GONE]\n",
        b"[(GONE,KVSERROR)(gone,KVSERROR)(r,5)(rB,3)(ra,1)(rb,2)(r\xff,4)]\n",
    ),
    "read_twice": (
        b"WRITE [(t,1)]\nREAD [t,u,t,u]\n",
        b"[(t,1)(t,1)(u,KVSERROR)(u,KVSERROR)]\n",
    ),
    "write_twice": (b"WRITE [(w,1)(v,9)(w,2)]\nREAD [w]\n", b"[(w,2)]\n"),
    "write_replaces": (b"WRITE [(x,1)]\nWRITE [(x,2)]\nREAD [x]\n", b"[(x,2)]\n"),
    "delete_missing": (
        b"WRITE [(d,1)(e,1)]\nDELETE [z9,d,d,a9]\nREAD [d,e]\nDELETE [e]\nDELETE [e]\n",
        b"[(a9,KVSMISSING)(d,KVSMISSING)(z9,KVSMISSING)]\n[(d,KVSERROR)(e,1)]\n[(e,KVSMISSING)]\n",
    ),
    "reserved_keys": (
        b"WRITE [(KVSERROR,1)(KVSMISSING,KVSERRO)]\nREAD [KVSMISSING,KVSERROR]\n",
        b"[(KVSERROR,1)(KVSMISSING,KVSERRO)]\n",
    ),
    "brackets_in_words": (
        b"WRITE [((((,(((()]\nREAD [ [[ , ((( ]\n",
        b"[((((,(((()([[,KVSERROR)]\n",
    ),
    "blanks": (
        b" \tWRITE \t[ ( b1 , 1 )\t( b2 , 2 ) ] \t\nREAD[b2, b1]\nDELETE[b1,\tb2]\n",
        b"[(b1,1)(b2,2)]\n",
    ),
    "carriage_returns": (
        b"WRITE [(cr,1)]\r\n\r\n# x\r\nREAD [cr]\r\nREAD [cr]\r",
        b"[(cr,1)]\n[(cr,1)]\n",
    ),
    "no_last_newline": (b"WRITE [(nl,1)]\nREAD [nl]", b"[(nl,1)]\n"),
    "raw_bytes": (b"WRITE [(\xff\x01,\x7f\x80)]\nREAD [\xff\x01]\n", b"[(\xff\x01,\x7f\x80)]\n"),
    "forty_bytes": (
        b"WRITE [(%b,%b)]\nREAD [%b]\n" % (b"k" * 40, b"v" * 40, b"k" * 40),
        b"[(%b,%b)]\n" % (b"k" * 40, b"v" * 40),
    ),
    "value_deleted": (b"WRITE [(vd,DELETED)]\nREAD [vd]\n", b"[(vd,DELETED)]\n"),
    "invalid_line_has_no_effect": (
        b"WRITE [(i,1)]\nWRITE [(i,2)(j,KVSERROR)]\nDELETE [i,]\nREAD [i,j]\n",
        b"[(i,1)(j,KVSERROR)]\n",
    ),
    "long_line": (
        b"WRITE [%b]\nREAD [l0000,l4999]\n" % b"".join(b"(l%04d,1)" % n for n in range(5000)),
        b"[(l0000,1)(l4999,1)]\n",
    ),
    "quoted_words": (
        b'WRITE [(q1,"two words, and a \\"quote\\"")("q 2","")("q\\\\3",x"y)("q4",KVSERROR2)]\n'
        b'READ [q1,"q 2",q\\3,"\\x714"]\n'
        b'WRITE [(q5,"\\n\\r\\t\\0\\x01\\xfF")("KVSERROR","KVSMISSING")]\n'
        b'READ ["q5",KVSERROR,"q,6"]\n'
        b'DELETE ["q 2",q5,"q 7"]\n',
        b'[("q 2","")(q1,"two words, and a \\"quote\\"")(q4,KVSERROR2)(q\\3,x"y)]\n'
        b'[(KVSERROR,"KVSMISSING")("q,6",KVSERROR)(q5,"\\n\\r\t\\0\x01\xff")]\n'
        b'[("q 7",KVSMISSING)]\n',
    ),
    "great_words": (
        b"WRITE [(%b,%b)]\nREAD [%b]\nDELETE [%b]\n"
        % (b"g" * 1024, b"v" * 100_000, b"g" * 1024, b"h" * 1024),
        b"[(%b,%b)]\n[(%b,KVSMISSING)]\n" % (b"g" * 1024, b"v" * 100_000, b"h" * 1024),
    ),
    "steps": (
        b"WRITE [(s1,1)]READ[s1,s2]DELETE[s1,s1] READ [s1] WRITE [(s2,2)]\nREAD [s1,s2]READ [s2]\n",
        b"[(s1,1)(s2,KVSERROR)]\n[(s1,KVSMISSING)]\n[(s1,KVSERROR)]\n"
        b"[(s1,KVSERROR)(s2,2)]\n[(s2,2)]\n",
    ),
    "conditions": (
        b"IF [(lock,KVSERROR)] WRITE [(lock,me)] FOR 60000\n"
        b"IF [(lock,KVSERROR)] WRITE [(lock,you)]\n"
        b'IF [(lock,me)(lock2,"KVSERROR")(lock,me)] READ [lock]\n'
        b"IF [(lock,me)(lock2,KVSERROR)] WRITE [(lock2,KVSERROR2)] READ [lock,lock2]\n",
        b"NOT [(lock,me)]\n"
        b"NOT [(lock,me)(lock,me)(lock2,KVSERROR)]\n"
        b"[(lock,me)(lock2,KVSERROR2)]\n",
    ),
    "additions": (
        b"ADD [(hits,1)(stock,-3)(hits,1)]\n"
        b'WRITE [(word,w)(most,9223372036854775807)]\nADD [(hits,"5")]\n'
        b"ADD [(hits,1)(word,1)]\nADD [(hits,1)] ADD [(most,1)(hits,1)]\nREAD [hits,most]\n",
        b"[(hits,2)(hits,2)(stock,-3)]\n[(hits,7)]\n"
        b"NOT [(hits,7)(word,w)]\nNOT [(hits,8)(most,9223372036854775807)]\n"
        b"[(hits,7)(most,9223372036854775807)]\n",
    ),
    "prefixes": (
        b'WRITE [(pa1,1)(pa2,"2 2")(pb1,3)(pc,4)]\nCOUNT [pa]\nCOUNT [pa,pb,pa1]\n'
        b"SHOW [pa,pb] AFTER [pa1] LIMIT 2\nSHOW [pc] LIMIT 0\nSHOW [pa]UNTIL\n"
        b"CLEAR [pb,pa2]\nCLEAR [pb]\nSHOW [p]\n",
        b'2\n3\n(pa2, "2 2")\n(pb1, 3)\n(pa1, 1)\n(pa2, "2 2")\n2\n0\n(pa1, 1)\n(pc, 4)\n',
    ),
    "expiries": (
        b"WRITE [(xp1,1)(xp2,2)] UNTIL 99999999999999\nWRITE [(xp3,3)]\nWRITE [(xp2,4)]\n"
        b"SHOW [xp] UNTIL\nEXPIRE 99999999999998\nREAD [xp1]\nEXPIRE 99999999999999\nSHOW [xp]\n",
        b"(xp1, 1) UNTIL 99999999999999\n(xp2, 4)\n(xp3, 3)\n[(xp1,1)]\n(xp2, 4)\n(xp3, 3)\n",
    ),
}

INVALID = {
    1: [
        b"READS [a]",
        b"RE AD [a]",
        b"read [a]",
        b"SHOWx",
        b"EXIT",
        b"\xef\xbb\xbfSHOW",
        b"\0",
        b"\r\r",
        b"NOT [(a,1)]",
    ],
    4: [b"  \tread [a]"],
    5: [b"READ", b"WAIT", b"HELP!"],
    6: [
        b"WRITE",
        b"READ a",
        b"WAIT x",
        b"WAIT -1",
        b"WAIT 00000000001",
        b"SHOW x",
        b"CLEAR",
    ],
    7: [
        b"WRITE (a,1)",
        b"READ []",
        b"READ [,a]",
        b"READ [%b]" % (b"k" * 1025),
        b"WAIT 1.5",
        b"WAIT 1s",
        b"SHOW []",
        b'READ [""]',
        b'READ ["a]',
        b'READ ["%b"]' % (rb"\x41" * 1025),
    ],
    8: [
        b"WRITE []",
        b"READ [a",
        b"WAIT 1 2",
        b"BACKUP 1",
        rb'READ ["\q"]',
        b"IF [(a,KVSMISSING)] READ [a]",
        b"EXPIRE 1234567890123456",
    ],
    9: [
        b"WRITE [()]",
        b"WRITE [(,1)]",
        b"READ [a,]",
        b"READ [a b]",
        b"READ [a]]",
        b"READ [a]\r ",
        b"ADD [(a,x)]",
        b"ADD [(a,01)]",
        b"ADD [(a,9223372036854775808)]",
    ],
    10: [
        b"WRITE [(a)]",
        b"WRITE [(a\0,1)]",
        b"READ [a] SHOW",
        b"READ [a] FOR 5",
        b"READ [a] IF [(a,1)] READ [a]",
        b"SHOW [a] [b]",
    ],
    11: [
        b"WRITE [(a,)]",
        b"WRITE [(a b,1)]",
        b"WRITE [(a,KVSERROR)]",
        b'WRITE [(a,"x)]',
        b"IF [(a,1)]",
    ],
    12: [b"WRITE [(a,1,2)]", b"WRITE [(a,1]", b"WRITE [(a, KVSMISSING )]", b"SHOW UNTIL LIMIT 3"],
    13: [b"WRITE [(a,1)", b"WRITE [(a,1),(b,2)]", b"WRITE [(a,1 2)]", rb'WRITE [(a,"b\x4")]'],
    15: [b"WRITE [(a,1)] x", b"WRITE [(a,1)] # comment"],
    19: [b"WRITE [(a,1)] FOR 0"],
}
"""Columns that are reported, and their lines."""


FIRST = ["empty_store", "document"]
"""Jobs whose SHOW must see no keys of others."""

ORDER = [*FIRST, *(name for name in RESULTS if name not in FIRST)]


@pytest.fixture(scope="module", params=["compiled", "python"])
def engine(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    if not has_engine(chosen):
        pytest.skip(f"the {chosen} engine is not built")
    return chosen


@pytest.fixture(scope="module")
def results(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run all jobs of `RESULTS`, each with keys of its own, one after the other."""
    directory = tmp_path_factory.mktemp("results")
    jobs = {f"{number:02}_{name}": RESULTS[name][0] for number, name in enumerate(ORDER)}
    ended = kvs("run", "--quiet", "--threads", "1", write_jobs(directory, **jobs), engine=engine)
    assert ended.stdout == b""
    assert len(lines_of(ended.stderr)) == 2
    assert ended.returncode == 1
    return directory


@pytest.mark.parametrize("name", sorted(RESULTS))
def test_output_of_a_job_is_exact(results: Path, name: str) -> None:
    output = results / f"{ORDER.index(name):02}_{name}.out"
    assert output.read_bytes() == RESULTS[name][1]


def test_invalid_lines_are_reported_with_line_and_column(engine: str, tmp_path: Path) -> None:
    cases = [(line, column) for column, lines in INVALID.items() for line in lines]
    script = b"".join(line + b"\nHELP\n" for line, _ in cases)
    jobs = write_jobs(tmp_path / "jobs", bad=script)
    ended = kvs("run", "--quiet", jobs, engine=engine)
    assert ended.returncode == 1
    assert ended.stdout == b""
    starts = [f"{jobs}/bad.job:{2 * n + 1}:{at}: " for n, (_, at) in enumerate(cases)]
    found = [re.match(r".*?\.job:[0-9]+:[0-9]+: (?=.)", line) for line in lines_of(ended.stderr)]
    assert [match and match[0] for match in found] == starts
    assert content(jobs / "bad.out") == HELP * len(cases)


def test_words_are_refused_beyond_their_limits(engine: str, tmp_path: Path) -> None:
    value = b"v" * 16_777_216
    jobs = write_jobs(
        tmp_path / "jobs", a=b"WRITE [(k,%b)]\nWRITE [(k,%bv)]\nREAD [k]\n" % (value, value)
    )
    ended = kvs("run", "--quiet", jobs, engine=engine)
    (line,) = lines_of(ended.stderr)
    assert line.startswith(f"{jobs}/a.job:2:11: ")
    assert content(jobs / "a.out") == b"[(k,%b)]\n" % value


def test_bytes_of_a_diagnostic_are_printable(engine: str, tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs", a=b"READ \x1b[31m\xff\x07\n")
    (line,) = lines_of(kvs("run", "--quiet", jobs, engine=engine).stderr)
    assert line.isprintable()
    assert r"\x1b" in line


def test_invalid_lines_beyond_1000_are_not_listed(engine: str, tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs", a=b"x\n" * 1003)
    lines = lines_of(kvs("run", "--quiet", jobs, engine=engine).stderr)
    listed = [line for line in lines if line.startswith(f"{jobs}/a.job:")]
    assert sum(bool(re.match(r".*\.job:[0-9]+:1: ", line)) for line in listed) == 1000
    assert len(lines) == 1001


def test_wait_shows_output_before_the_pause(tmp_path: Path) -> None:
    jobs = write_jobs(tmp_path / "jobs", a=b"READ [a]\nWAIT 3600000\nHELP\n")
    with started("run", "--quiet", jobs) as process:
        until(lambda: content(jobs / "a.out") == b"[(a,KVSERROR)]\nWaiting...\n")
        assert ended_by(process, signal.SIGTERM) == 143
    assert content(jobs / "a.out") == b"[(a,KVSERROR)]\nWaiting...\n"

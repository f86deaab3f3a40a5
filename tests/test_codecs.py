"""Codecs: what a program's keys and values become in a store, and back."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvs import JSON, Change, Codec, InvalidValueError, InvalidWordError, Store

json_values = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: (
        st.lists(inner | st.none(), max_size=3)
        | st.dictionaries(st.text(max_size=5), inner | st.none(), max_size=3)
    ),
    max_leaves=8,
)


@given(json_values)
def test_json_value_is_decoded_to_what_was_encoded(value: object) -> None:
    assert JSON.decode_value(JSON.encode_value(value)) == value


@given(st.binary(min_size=1, max_size=40))
def test_every_key_is_decoded_to_text_that_is_encoded_the_same(key: bytes) -> None:
    text = JSON.decode_key(key)
    assert isinstance(text, str)
    assert JSON.encode_key(text) == JSON.encode_key(key) == key


def test_json_is_compact_and_in_utf_8() -> None:
    text = '{"x":[1,2.5,"é"],"y":null}'
    assert JSON.encode_value({"x": [1, 2.5, "é"], "y": None}) == text.encode()
    assert JSON.encode_value("\ud800") == b'"\\ud800"'


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "None is not a value"),
        (math.nan, "a value of type float cannot be written as JSON: "),
        ([math.inf], "a value of type list cannot be written as JSON: "),
        ([10**5000], "cannot be written as JSON: a whole number has more than 4300 digits"),
        (_nested(100_000), "cannot be written as JSON: it is nested too deeply"),
        ("x" * (1 << 24), "a value is at most 16777216 bytes, this one has 16777218"),
        (_nested(900), None),
    ],
)
def test_json_refuses_what_it_cannot_express(value: object, reason: str | None) -> None:
    if reason is None:
        assert JSON.decode_value(JSON.encode_value(value)) == value
        return
    with pytest.raises(InvalidWordError) as caught:
        JSON.encode_value(value)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"null", "null is not a value"),
        (b"[1,-1e999]", "the number -1e999 is too great"),
        (b"9" * 5000, "a whole number has more than 4300 digits"),
        (b"[" * 100_000, "it is nested too deeply"),
        (b"[null,1e300,-0.5]", None),
    ],
)
def test_decoded_json_can_be_written_again(raw: bytes, reason: str | None) -> None:
    if reason is None:
        assert json.loads(JSON.encode_value(JSON.decode_value(raw))) == json.loads(raw)
        return
    with pytest.raises(ValueError, match=reason):
        JSON.decode_value(raw)


def test_types_that_json_has_not_raise_type_error() -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        JSON.encode_value({"a": b"bytes"})


class TestStoreOfJson:
    def test_values_are_what_json_expresses(self) -> None:
        store = Store(codec=JSON)
        store["a"] = {"x": 1}
        store.write({"b": [1, "zwei"], "ä": "text"})
        assert store["a"] == {"x": 1}
        assert store.items() == [("a", {"x": 1}), ("b", [1, "zwei"]), ("ä", "text")]
        assert store.keys() == list(store) == ["a", "b", "ä"]
        assert store.read(["b", "a", "c"]) == {"b": [1, "zwei"], "a": {"x": 1}}
        assert (store.get("c"), store.get("c", 5), "c" in store) == (None, 5, False)
        assert store.delete(["ä", "c"]) == ["c"]
        assert store.execute(b"READ [a]").output == b'[(a,{"x":1})]\n'

    def test_conditions_counters_and_updates_use_the_codec(self) -> None:
        store = Store(codec=JSON)
        assert store.write({"lock": {"by": "me"}}, if_={"lock": None}) == 1
        assert store.write({"lock": {"by": "you"}}, if_={"lock": None}) is None
        assert store.write({"lock": 1}, if_={"lock": {"by": "me"}}) == 2
        assert store.add({"lock": 2}) == {"lock": 3}
        assert store["lock"] == 3
        assert store.update(["lock"], lambda found: {"lock": [found["lock"]]}) == {"lock": [3]}
        assert store.items(prefix="l") == [("lock", [3])]
        assert (store.count("l"), store.clear("l"), len(store)) == (1, 1, 0)

    def test_changes_are_decoded(self) -> None:
        store = Store(codec=JSON)
        with store.watch(["a"]) as watch:
            store["a"] = {"x": 1}
            del store["a"]
            assert [watch.next(0), watch.next(0)] == [Change("a", {"x": 1}), Change("a", None)]

    def test_value_that_is_no_json_raises_with_its_key(self) -> None:
        store = Store(codec=JSON)
        store.execute(b"WRITE [(a,text)(n,NaN)(b,1)]")
        with store.watch(["a"]) as watch:
            store.execute(b"WRITE [(a,text)]")
            store["a"] = 1
            with pytest.raises(InvalidValueError):
                watch.next(0)
            assert watch.next(0) == Change("a", 1)
        store.execute(b"WRITE [(a,text)]")
        for use in (lambda: store["a"], lambda: store.read(["a"]), store.items):
            with pytest.raises(InvalidValueError) as caught:
                use()
            error = caught.value
            assert (error.key, error.value) == (b"a", b"text")
            assert str(error).startswith("'a': the value 'text' cannot be decoded: ")
        with pytest.raises(InvalidValueError):
            store["n"]
        assert store["b"] == 1
        assert "a" in store


def test_codec_of_a_program_may_have_types_of_its_own() -> None:
    def encode(number: int | str | bytes) -> bytes:
        return b"%08d" % int(number)

    numbers = Codec[int, int](encode, int, encode, int)
    store = Store(codec=numbers)
    store.write({2: 20, 10: 100})
    assert store.items() == [(2, 20), (10, 100)]
    assert store.items(after=2) == [(10, 100)]
    assert store[10] == 100

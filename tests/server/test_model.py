"""Random requests, in random pieces, compared with a model of one session."""

import os
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from kvs.language.grammar import spell, spell_value
from kvs.protocol import frames
from kvs.protocol.requests import Disconnect, Execute, Subscribe, Unsubscribe
from tests.protocol.pieces import cut
from tests.server.raw_client import Client, serving

KEYS = [b"a", b"b", b"key", b"a b", b"]", b"x" * 40]
NO_KEYS = [b"", b"x" * 41]
VALUES = [b"1", b"two", b"", b'" \n', b"v" * 40, b"v" * 41, b"\0", b"DELETED"]

keys = st.sampled_from(KEYS)
pairs = st.lists(st.tuples(keys, st.sampled_from(VALUES)), min_size=1, max_size=4)
Step = tuple[str, bytes] | tuple[str, list[tuple[bytes, bytes]]] | tuple[str, list[bytes]]

steps: st.SearchStrategy[list[Step]] = st.lists(
    st.one_of(
        st.tuples(st.just("subscribe"), st.sampled_from(KEYS + NO_KEYS)),
        st.tuples(st.just("unsubscribe"), st.sampled_from(KEYS + NO_KEYS)),
        st.tuples(st.just("write"), pairs),
        st.tuples(st.just("delete"), st.lists(keys, min_size=1, max_size=4)),
        st.tuples(st.just("read"), st.lists(keys, min_size=1, max_size=4)),
        st.tuples(st.just("nonsense"), st.binary(max_size=20).map(lambda raw: b"!" + raw)),
        st.tuples(st.just("too long"), st.just(b"")),
    ),
    max_size=30,
)


@dataclass
class Model:
    """A model of one session: the expected replies and notifications."""

    table: dict[bytes, bytes] = field(default_factory=dict)
    subscribed: set[bytes] = field(default_factory=set)
    sent: bytes = b""
    """Bytes that the client sends."""
    replies: list[tuple[int, int, bytes | None]] = field(default_factory=list)
    """Operation, result, and the output of an execute."""
    changes: list[tuple[bytes, bytes]] = field(default_factory=list)

    def step(self, kind: str, what: object) -> None:
        match kind, what:
            case "subscribe", bytes(key):
                self.sent += Subscribe(key).encode()
                self.replies.append((frames.SUBSCRIBE, int(key in self.table), None))
                self.subscribed |= {key} & set(KEYS)
            case "unsubscribe", bytes(key):
                self.sent += Unsubscribe(key).encode()
                self.replies.append((frames.UNSUBSCRIBE, int(key not in self.subscribed), None))
                self.subscribed.discard(key)
            case "write", list(given):
                pairs = b"".join(b"(%b,%b)" % (spell(k), spell_value(v)) for k, v in given)
                self._execute(b"WRITE [" + pairs + b"]\n")
                self.table |= dict(given)
                # One naming, the first, is its place; one value, the last, is its own.
                self._tell(dict(given))
            case "delete", list(given):
                there = [key for key in dict.fromkeys(given) if key in self.table]
                missing = sorted(set(given) - set(there)) + [
                    key for key in KEYS for _ in range(given.count(key) - 1)
                ]
                line = b"".join(b"(%b,KVSMISSING)" % spell(key) for key in sorted(missing))
                script = b"DELETE [" + b",".join(map(spell, given)) + b"]"
                self._execute(script, b"[" + line + b"]\n" if line else b"")
                for key in there:
                    del self.table[key]
                self._tell(dict.fromkeys(there, frames.DELETED))
            case "read", list(given):
                line = b"".join(b"(%b,%b)" % self._shown(key) for key in sorted(given))
                script = b"READ [" + b",".join(map(spell, given)) + b"]"
                self._execute(script, b"[" + line + b"]\n")
            case "nonsense", bytes(script):
                self._execute(script.replace(b"\n", b"!"), b"", 1)
            case _:
                length = frames.MAX_SCRIPT_BYTES + 1
                self.sent += bytes([frames.EXECUTE]) + length.to_bytes(4, "little")
                self.sent += (
                    bytes([frames.DISCONNECT]) * length
                )  # skipped with the oversized script
                self.replies.append((frames.EXECUTE, 1, b""))

    def _execute(self, script: bytes, output: bytes = b"", result: int = 0) -> None:
        self.sent += Execute(script).encode()
        self.replies.append((frames.EXECUTE, result, output))

    def _shown(self, key: bytes) -> tuple[bytes, bytes]:
        value = self.table.get(key)
        return spell(key), b"KVSERROR" if value is None else spell_value(value)

    def _tell(self, changes: dict[bytes, bytes]) -> None:
        self.changes += [
            (key, value if len(value) <= 40 and b"\0" not in value else b"CHANGED")
            for key, value in changes.items()
            if key in self.subscribed
        ]


@settings(max_examples=60, deadline=None)
@given(steps, st.data())
def test_session_matches_the_model(given: list[Step], data: st.DataObject) -> None:
    model = Model()
    for kind, what in given:
        model.step(kind, what)
    model.sent += Disconnect().encode() + os.urandom(3)
    with serving() as served:
        client = Client(served, "c").connected()
        for piece in data.draw(cut(model.sent)):
            left = memoryview(piece)
            while left:
                left = left[os.write(client.open["req"], left) :]
        for operation, result, output in model.replies:
            if operation == frames.EXECUTE:
                got, out, errors = client.executed()
                assert (got, out, bool(errors)) == (result, output, bool(result))
            else:
                assert client.reply() == (operation, result)
        assert client.reply() == (frames.DISCONNECT, 0)
        assert client.at_end("resp")
        assert [client.change() for _ in model.changes] == model.changes
        client.close("req")
        assert client.at_end("not")
        assert served.store.items() == sorted(model.table.items())
        client.close()

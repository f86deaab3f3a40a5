"""Sessions that all send a long script at the same moment, again and again, until killed.

``python -m tests.stress.crowd REGISTRATION FOLDER KIND COUNT``: writes a line when all are
connected, begins when it can read a line, and writes one whenever all have their replies.
"""

import os
import select
import sys
from pathlib import Path

from kvs.protocol import frames
from kvs.protocol.requests import Execute
from tests.server.raw_client import Client, Place

SIZE = frames.MAX_SCRIPT_BYTES


def filled(head: bytes, unit: bytes, tail: bytes) -> bytes:
    return head + unit * ((SIZE - len(head) - len(tail)) // len(unit)) + tail


KINDS = {
    "a WRITE": filled(b"WRITE [", b"(a,b)", b"]\n"),
    "a READ": filled(b"READ [", b"b,", b"b]\n"),
    "a DELETE": filled(b"DELETE [", b"zz,", b"zz]\n"),
    "an invalid WRITE": filled(b"WRITE [", b"(a,b)", b"\n"),
    "an invalid READ": filled(b"READ [", b"a,", b"\n"),
    "a word": filled(b"", b"x", b"\n"),
    "invalid lines": b"x\n" * (SIZE // 2),
    "empty lines and a SHOW": b"#SHOW\n" + b"\n" * (SIZE - 6),
    "short lines": filled(b"", b"READ [a]\n", b""),
}


def send_but_the_last_byte(clients: list[Client], request: bytes) -> None:
    left = {client.open["req"]: memoryview(request)[:-1] for client in clients}
    poll = select.poll()
    for descriptor in left:
        poll.register(descriptor, select.POLLOUT)
    while left:
        for descriptor, _ in poll.poll():
            left[descriptor] = left[descriptor][os.write(descriptor, left[descriptor][:65536]) :]
            if not left[descriptor]:
                del left[descriptor]
                poll.unregister(descriptor)


def read_replies(clients: list[Client]) -> None:
    heads = {client.open["resp"]: b"" for client in clients}
    left: dict[int, int] = {}
    poll = select.poll()
    for descriptor in heads:
        poll.register(descriptor, select.POLLIN)
    while heads:
        for descriptor, _ in poll.poll():
            if descriptor in left:
                left[descriptor] -= len(os.read(descriptor, left[descriptor]))
            else:
                missing = frames.EXECUTE_REPLY_HEADER_BYTES - len(heads[descriptor])
                heads[descriptor] += os.read(descriptor, missing)
                if len(heads[descriptor]) == frames.EXECUTE_REPLY_HEADER_BYTES:
                    _, output, errors = frames.decode_execute_reply_header(heads[descriptor])
                    left[descriptor] = output + errors
            if left.get(descriptor) == 0:
                del heads[descriptor]
                poll.unregister(descriptor)


def main() -> None:
    path, folder, kind, count = sys.argv[1:]
    place = Place(Path(path), Path(folder))
    clients = [Client(place, f"crowd{number}").connected() for number in range(int(count))]
    for client in clients:
        os.set_blocking(client.open["req"], False)
    request = Execute(KINDS[kind]).encode()
    print("connected", flush=True)
    sys.stdin.readline()
    while True:
        send_but_the_last_byte(clients, request)
        for client in clients:
            client.send(request[-1:])
        read_replies(clients)
        print("replied", flush=True)


if __name__ == "__main__":
    main()

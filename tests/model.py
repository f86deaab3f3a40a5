"""A naive model of the command language: slow, obvious, and sharing no code with the package."""

from dataclasses import dataclass, field

NOT_IN_WORDS = b"\0\n\r \t,)]"


class Invalid(Exception):
    """The line is not a command."""


@dataclass
class Model:
    """One store, one script after the other."""

    help_text: bytes = b""
    pairs: dict[bytes, bytes] = field(default_factory=dict)
    revision: int = 0
    output: bytes = b""
    invalid: list[int] = field(default_factory=list)
    """Line numbers of the invalid lines, from 1."""
    commands: int = 0
    backups: list[dict[bytes, bytes]] = field(default_factory=list)
    waits: list[int] = field(default_factory=list)

    def run(self, script: bytes) -> None:
        lines = script.split(b"\n")
        if lines[-1] == b"":
            lines.pop()
        for number, line in enumerate(lines, 1):
            try:
                command = parse(line)
            except Invalid:
                self.invalid.append(number)
                continue
            if command is not None:
                self.commands += 1
                self._execute(*command)

    def _execute(self, name: bytes, words: list[bytes]) -> None:
        if name == b"WRITE":
            for key, value in zip(words[::2], words[1::2], strict=True):
                self.pairs[key] = value
            self.revision += 1
        elif name == b"READ":
            self.output += b"["
            for key in sorted(words):
                self.output += b"(" + key + b"," + self.pairs.get(key, b"KVSERROR") + b")"
            self.output += b"]\n"
        elif name == b"DELETE":
            self._delete(words)
        elif name == b"SHOW":
            for key in sorted(self.pairs):
                self.output += b"(" + key + b", " + self.pairs[key] + b")\n"
        elif name == b"WAIT":
            self.waits.append(int(words[0]))
            if int(words[0]):
                self.output += b"Waiting...\n"
        elif name == b"BACKUP":
            self.backups.append(dict(self.pairs))
        elif name == b"HELP":
            self.output += self.help_text

    def _delete(self, words: list[bytes]) -> None:
        missing = []
        for key in words:
            if key in self.pairs:
                del self.pairs[key]
            else:
                missing.append(key)
        if len(missing) < len(words):
            self.revision += 1
        if missing:
            marks = b"".join(b"(" + key + b",KVSMISSING)" for key in sorted(missing))
            self.output += b"[" + marks + b"]\n"


def parse(line: bytes) -> tuple[bytes, list[bytes]] | None:
    """Return the name and words of a line without its newline; None for a comment or blank."""
    if line.endswith(b"\r"):
        line = line[:-1]
    line = line.strip(b" \t")
    if line == b"" or line.startswith(b"#"):
        return None
    for name in (b"WRITE", b"READ", b"DELETE"):
        if line.startswith(name):
            return name, _list(line[len(name) :].strip(b" \t"), pairs=name == b"WRITE")
    if line.startswith(b"WAIT"):
        digits = line[4:].strip(b" \t")
        if not 1 <= len(digits) <= 10 or any(digit not in b"0123456789" for digit in digits):
            raise Invalid
        return b"WAIT", [digits]
    if line in {b"SHOW", b"BACKUP", b"HELP"}:
        return line, []
    raise Invalid


def _list(text: bytes, *, pairs: bool) -> list[bytes]:
    if not text.startswith(b"[") or not text.endswith(b"]") or len(text) < 2:
        raise Invalid
    inside = text[1:-1].strip(b" \t")
    if not pairs:
        return [_word(word) for word in inside.split(b",")]
    words: list[bytes] = []
    while inside:
        end = inside.find(b")")
        if not inside.startswith(b"(") or end < 0:
            raise Invalid
        both = inside[1:end].split(b",")
        if len(both) != 2:
            raise Invalid
        words += [_word(both[0]), _word(both[1])]
        if words[-1] in {b"KVSERROR", b"KVSMISSING"}:
            raise Invalid
        inside = inside[end + 1 :].strip(b" \t")
    if not words:
        raise Invalid
    return words


def _word(text: bytes) -> bytes:
    word = text.strip(b" \t")
    if not 1 <= len(word) <= 40 or any(byte in NOT_IN_WORDS for byte in word):
        raise Invalid
    return word

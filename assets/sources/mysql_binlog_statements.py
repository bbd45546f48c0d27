"""What a statement in the binlog does to one table, as far as no row of the log tells it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"\s+|(?P<unwrapped>/\*M?!\d*|\*/)|/\*.*?\*/|(?:\#|--(?=\s))[^\n]*"
    r"|`(?P<quoted>(?:[^`]|``)*)`|\"(?P<double>(?:[^\"\\]|\\.|\"\")*)\"|(?P<text>'(?:[^'\\]|\\.|'')*')"
    r"|(?P<word>[\w$]+)|(?P<sign>.)",
    re.DOTALL,
)
_OTHER_PARTS = re.compile(
    r"(INDEX|KEY|UNIQUE|PRIMARY|FULLTEXT|SPATIAL|CONSTRAINT|FOREIGN|CHECK|PARTITION|PERIOD|"
    r"SYSTEM)\Z"
)
_NO_ROWS = re.compile(
    r"(ENGINE|COMMENT|AUTO_INCREMENT|ROW_FORMAT|KEY_BLOCK_SIZE|ALGORITHM|LOCK|FORCE|ORDER|DISABLE|"
    r"ENABLE|WITH|WITHOUT|COALESCE|ANALYZE|CHECK|OPTIMIZE|REBUILD|REPAIR|REORGANIZE|PARTITION|"
    r"REMOVE|STATS_PERSISTENT|STATS_AUTO_RECALC|STATS_SAMPLE_PAGES|CHECKSUM|MAX_ROWS|MIN_ROWS|"
    r"AVG_ROW_LENGTH|DELAY_KEY_WRITE|PACK_KEYS|INSERT_METHOD|TABLESPACE|COMPRESSION|ENCRYPTION|"
    r"PAGE_COMPRESSED|PAGE_COMPRESSION_LEVEL|ENCRYPTED|ENCRYPTION_KEY_ID|TRANSACTIONAL|WAIT|NOWAIT|"
    r"DEFAULT|CHARACTER|CHARSET|COLLATE|UNION|SECONDARY_ENGINE|AUTOEXTEND_SIZE)\Z"
)
_PARTS_OF_ROWS = re.compile(r"(TRUNCATE|DISCARD|IMPORT|EXCHANGE|CONVERT)\Z")
_CHANGES = re.compile(r"(INSERT|UPDATE|DELETE|REPLACE|LOAD|CALL|DO|WITH|SELECT|EXECUTE)\Z")


@dataclass
class Effects:
    """What a statement did to the table.

    Args:
        truncated: it removed all rows.
        lost: why rows changed that no log tells; empty: they did not.
        changed: why values changed that no log tells.
        added, dropped, redefined: columns, in lower case.
    """

    truncated: bool = False
    lost: str = ""
    changed: str = ""
    added: set[str] = field(default_factory=set)
    dropped: set[str] = field(default_factory=set)
    redefined: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Token:
    kind: str
    text: str

    @property
    def word(self) -> str:
        """In upper case, of a word that is not quoted."""
        return self.text.upper() if self.kind == "word" else ""

    @property
    def names(self) -> bool:
        return self.kind in ("word", "quoted")


def tokens(statement: str) -> list[Token]:
    found = []
    for match in _TOKEN.finditer(statement):
        kind = match.lastgroup
        if kind is None or kind == "unwrapped":
            continue
        text = match[kind]
        if kind in ("quoted", "double"):  # under ANSI_QUOTES a name, else a text that nobody asks for
            text, kind = text.replace("``", "`") if kind == "quoted" else text.replace('""', '"'), "quoted"
        found.append(Token(kind, text))
    return found


class _Reader:
    def __init__(self, found: Sequence[Token]) -> None:
        self._tokens, self._at = found, 0

    def next(self) -> Token:
        self._at += 1
        return self._tokens[self._at - 1] if self._at <= len(self._tokens) else Token("end", "")

    def peek(self) -> Token:
        return self._tokens[self._at] if self._at < len(self._tokens) else Token("end", "")

    def skip(self, *words: str) -> bool:
        """Skip any of the words; whether there was one."""
        start = self._at
        while self.peek().word in words:
            self._at += 1
        return self._at > start

    def rest(self) -> Sequence[Token]:
        return self._tokens[self._at :]


class TableStatements:
    """Reads statements for one table.

    Args:
        fold: names of databases and tables differ by more than case on this server (``lower_case_table_names``) if not.
    """

    def __init__(self, schema: str, table: str, *, fold: bool) -> None:
        self._fold = fold
        self._schema, self._table = self._folded(schema), self._folded(table)

    def _folded(self, name: str) -> str:
        return name.lower() if self._fold else name

    def _is_table(self, reader: _Reader, default: str) -> bool:
        schema, name = default, reader.next().text
        if reader.peek().text == ".":
            reader.next()
            schema, name = name, reader.next().text
        return (self._folded(schema), self._folded(name)) == (self._schema, self._table)

    def names_table(self, body: bytes) -> bool:
        """Whether bytes with a statement in them may name the table."""
        return self._table.encode().lower() in body.lower()

    def effects(self, statement: str, default: str) -> Effects | None:
        """What it did to the table; None if nothing. ``default`` is the database that it ran in."""
        found = tokens(statement)
        reader = _Reader(found)
        verb = reader.next().word
        if _CHANGES.match(verb):
            named = any(t.names and self._folded(t.text) == self._table for t in found)
            return Effects(lost="a change was logged as a statement, not as rows") if named else None
        if verb == "TRUNCATE":
            reader.skip("TABLE")
            return Effects(truncated=True) if self._is_table(reader, default) else None
        if verb == "ALTER":
            return self._alter(reader, default)
        if verb == "RENAME" and reader.skip("TABLE", "TABLES"):
            return self._renamed(reader, default)
        if verb == "DROP":
            return self._dropped(reader, default)
        if verb == "CREATE":
            return self._created(reader, default)
        return None

    def _dropped(self, reader: _Reader, default: str) -> Effects | None:
        if reader.skip("DATABASE", "SCHEMA"):
            reader.skip("IF", "EXISTS")
            return (
                Effects(lost="the database was dropped") if self._folded(reader.next().text) == self._schema else None
            )
        if not reader.skip("TABLE", "TABLES"):
            return None  # also DROP TEMPORARY TABLE
        reader.skip("IF", "EXISTS")
        while reader.peek().kind != "end":
            if self._is_table(reader, default):
                return Effects(lost="the table was dropped")
            if reader.next().text != ",":
                break
        return None

    def _created(self, reader: _Reader, default: str) -> Effects | None:
        reader.skip("OR", "REPLACE")
        if not reader.skip("TABLE"):
            return None
        kept = reader.skip("IF", "NOT", "EXISTS")
        named = self._is_table(reader, default)
        return Effects(lost="the table was created again") if named and not kept else None

    def _renamed(self, reader: _Reader, default: str) -> Effects | None:
        reader.skip("IF", "EXISTS")
        while reader.peek().kind != "end":
            if self._is_table(reader, default):
                return Effects(lost="the table was renamed, or another one took its name")
            while reader.peek().kind != "end" and reader.next().text.upper() not in ("TO", ","):
                continue
        return None

    def _alter(self, reader: _Reader, default: str) -> Effects | None:
        ignore = False
        while reader.peek().word in ("ONLINE", "OFFLINE", "IGNORE"):
            ignore |= reader.next().word == "IGNORE"
        if not reader.skip("TABLE"):
            return None
        reader.skip("IF", "EXISTS")
        if not self._is_table(reader, default):
            swapped = self._taken_in(reader, default)
            return Effects(lost=swapped) if swapped else None
        effects = Effects(lost="ALTER IGNORE may have removed rows" if ignore else "")
        for part in _parts(reader.rest()):
            self._alteration(_Reader(part), effects)
        return effects

    def _taken_in(self, reader: _Reader, default: str) -> str:
        """Another table is altered: it may take the followed one's name, or swap a partition with it."""
        rest = reader.rest()
        for index, token in enumerate(rest):
            after_rename = token.word == "RENAME" and index + 1 < len(rest)
            if after_rename or (token.word == "TABLE" and index):
                follower = _Reader(rest[index + 1 :])
                follower.skip("TO", "AS")
                if self._is_table(follower, default):
                    return "another table took its name" if after_rename else "a partition was exchanged with it"
        return ""

    def _alteration(self, reader: _Reader, effects: Effects) -> None:
        verb = reader.next().word
        if verb == "ADD":
            self._added(reader, effects)
        elif verb == "DROP":
            if reader.peek().word == "PARTITION":
                effects.lost = "a partition was dropped"
            elif not _OTHER_PARTS.match(reader.peek().word):
                reader.skip("COLUMN")
                reader.skip("IF", "EXISTS")
                effects.dropped.add(reader.next().text.lower())
        elif verb in ("MODIFY", "CHANGE"):
            reader.skip("COLUMN")
            reader.skip("IF", "EXISTS")
            name = reader.next().text
            now = reader.next().text if verb == "CHANGE" else name
            if now.lower() != name.lower():
                effects.changed = f"column {name} is now named {now}"
            else:
                effects.redefined.append(name.lower())
        elif verb == "RENAME":
            if reader.peek().word == "COLUMN":
                reader.next()
                reader.skip("IF", "EXISTS")
                name = reader.next().text
                reader.skip("TO")
                effects.changed = f"column {name} is now named {reader.next().text}"
            elif reader.peek().word not in ("INDEX", "KEY"):
                effects.lost = "the table was renamed"
        elif _PARTS_OF_ROWS.match(verb):
            if verb == "CONVERT" and reader.peek().word == "TO":
                effects.changed = "its character set was changed"
            else:
                effects.lost = "a partition or the tablespace was exchanged, truncated or imported"
        elif verb and not _NO_ROWS.match(verb) and verb != "ALTER":
            effects.changed = f"it was altered ({verb})"

    def _added(self, reader: _Reader, effects: Effects) -> None:
        if _OTHER_PARTS.match(reader.peek().word):
            if reader.peek().word == "SYSTEM":
                effects.lost = "the table became system-versioned"
            return
        reader.skip("COLUMN")
        reader.skip("IF", "NOT", "EXISTS")
        rest = list(reader.rest())
        columns = list(_parts(rest[1:-1])) if rest and rest[0].text == "(" else [rest]
        for column in columns:
            if not column or _OTHER_PARTS.match(column[0].word):
                continue
            name = column[0].text
            words = [token.word for token in column[1:]]
            values = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "DEFAULT"]
            if any(value != "NULL" for value in values) or {"NOT", "AUTO_INCREMENT", "AS", "GENERATED"} & set(words):
                effects.changed = f"column {name} was added with a default"
            effects.added.add(name.lower())


def _parts(found: Sequence[Token]) -> Iterator[list[Token]]:
    """What stands between the commas that are in no parentheses."""
    part: list[Token] = []
    depth = 0
    for token in found:
        if token.kind == "sign":
            depth += {"(": 1, ")": -1}.get(token.text, 0)
            if token.text == "," and not depth:
                yield part
                part = []
                continue
        part.append(token)
    yield part

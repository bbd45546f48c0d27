"""A small web shop in PostgreSQL, the same on every machine, with the awkward cases that real databases have."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

DEMO_MARKER = "made-by-make-demo"
"""File in a home that `make demo` made."""
SEED = 20_260_101
START = datetime(2025, 1, 1, tzinfo=UTC)
CUSTOMERS, PRODUCTS, ORDERS, EVENTS, SESSIONS, MESSAGES = 12_000, 1_500, 40_000, 30_000, 3_000, 15_000
BULK_IMPORT = datetime(2025, 3, 1, 4, 0, 0, tzinfo=UTC)
"""One `updated_at` shared by thousands of customers: an import in one statement."""

TABLES = {
    "customers": CUSTOMERS,
    "products": PRODUCTS,
    "orders": ORDERS,
    "order_items": ORDERS * 5 // 2,
    "events": EVENTS,
    "chat_sessions": SESSIONS,
    "chat_messages": MESSAGES,
    "returns": 0,
}
"""Tables and their rows after `load_shop`."""

_SCHEMA = """
CREATE TYPE order_status AS ENUM ('new', 'paid', 'shipped', 'cancelled');
CREATE TABLE customers (
    id integer PRIMARY KEY, email text NOT NULL, name text, country char(2), birth_date date,
    tags text[], preferences jsonb, credit numeric(12, 2), updated_at timestamptz
);
CREATE TABLE products (
    id integer PRIMARY KEY, sku varchar(20) NOT NULL, title text NOT NULL, price numeric(12, 2) NOT NULL,
    weight_kg double precision, ratio numeric, dimensions real[], opens time, updated_at timestamptz NOT NULL
);
CREATE TABLE orders (
    id bigint PRIMARY KEY, customer_id integer NOT NULL, status order_status NOT NULL, total numeric(12, 2) NOT NULL,
    reference uuid NOT NULL, note text, ship_after interval, placed_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE TABLE order_items (
    order_id bigint NOT NULL, line smallint NOT NULL, product_id integer NOT NULL, quantity integer NOT NULL,
    price numeric(12, 2) NOT NULL, discount numeric(5, 4), updated_at timestamptz NOT NULL,
    PRIMARY KEY (order_id, line)
);
CREATE TABLE events (kind text NOT NULL, client inet, payload jsonb, at timestamptz NOT NULL);
CREATE TABLE chat_sessions (
    id uuid PRIMARY KEY, customer_id integer, channel text NOT NULL, opened_at timestamp NOT NULL,
    closed_at timestamp, updated_at timestamptz NOT NULL
);
CREATE TABLE chat_messages (
    id bigint PRIMARY KEY, session_id uuid NOT NULL, sender text NOT NULL, body text, attachment bytea,
    updated_at timestamptz NOT NULL
);
CREATE TABLE returns (
    id bigint PRIMARY KEY, order_id bigint NOT NULL, reason text, updated_at timestamptz NOT NULL
);
"""
_CONSTRAINTS = """
ALTER TABLE orders ADD FOREIGN KEY (customer_id) REFERENCES customers (id) ON UPDATE CASCADE;
ALTER TABLE order_items ADD FOREIGN KEY (order_id) REFERENCES orders (id) ON DELETE CASCADE;
ALTER TABLE chat_messages ADD FOREIGN KEY (session_id) REFERENCES chat_sessions (id) ON DELETE CASCADE;
CREATE INDEX ON chat_messages (session_id);
CREATE INDEX ON orders (customer_id);
ANALYZE;
"""
_NAMES = (
    "Ada Lovelace",
    "Zoë Müller",
    "李小龍",
    "Þóra Ægisdóttir",
    "نور الهدى",
    'O\'Brien "Bo"',
    "Łucja Żak",
    "Søren 🎩",
)
_WORDS = (
    "tea",
    "Straße",
    "crème brûlée",
    "notebook",
    "🚲 bell",
    "lamp\t(tall)",
    "line\nbreak",
    "back\\slash",
    "NULL",
    "",
)
_LINES = (
    "Hello, my name is {name}.",
    "Hi {name}, how can I help you?",
    "My order ORD-20931 has not arrived yet.",
    "It was supposed to come last Friday.",
    "I paid $49.99 for it, and €12.50 for the delivery.",
    "Please write to me at {name} c/o shop@example.com.",
    "I prefer e-mail over phone calls.",
    "Please don't call me before 9 am.",
    "I live in Berlin now.",
    "Could you send it to Hamburg by Tuesday?",
    "Let's go with the express delivery.",
    "Okay, I'll take the refund.",
    "Thanks, {name}! 🚲",
    "line\nbreak, back\\slash and NULL",
)
_KINDS = ("view", "search", "add_to_cart", "checkout", "refund")


class _Shop:
    """Rows of every table, drawn from one seeded generator in a fixed order."""

    def __init__(self) -> None:
        self.random = random.Random(SEED)
        self.sessions = [uuid.UUID(int=self.random.getrandbits(128), version=4) for _ in range(SESSIONS)]

    def moment(self) -> datetime:
        return START + timedelta(microseconds=self.random.randrange(365 * 86_400 * 1_000_000))

    def money(self, most: int) -> Decimal:
        return Decimal(self.random.randrange(1, most * 100)) / 100

    def customers(self) -> Iterator[tuple[Any, ...]]:
        for number in range(1, CUSTOMERS + 1):
            draw = self.random.random()
            preferences = {"newsletter": draw < 0.5, "points": self.random.getrandbits(70), "rate": "1.50"}
            tags = None if draw < 0.2 else [self.random.choice(_WORDS), None, "a,b{c}"][: int(draw * 4)]
            # A tenth was never touched since an old migration (NULL cursor), a third came in one import (ties).
            updated = None if draw < 0.1 else BULK_IMPORT if draw < 0.43 else self.moment()
            born = None if draw > 0.9 else date(1940, 1, 1) + timedelta(days=self.random.randrange(25_000))
            yield (
                number,
                f"customer{number}@example.com",
                self.random.choice(_NAMES),
                self.random.choice(("DE", "FR", "JP", "BR")),
                born,
                tags,
                json.dumps(preferences),
                Decimal("9999999999.99") if number == 1 else self.money(500),
                updated,
            )

    def products(self) -> Iterator[tuple[Any, ...]]:
        for number in range(1, PRODUCTS + 1):
            weight = float("nan") if number == 7 else float("inf") if number == 8 else self.random.random() * 40
            ratio = Decimal(1) / Decimal(number)
            opens = "24:00" if number % 500 == 0 else time(self.random.randrange(24), self.random.randrange(60))
            title = f"{self.random.choice(_WORDS)} {number}"
            sizes = [round(self.random.random() * 100, 2) for _ in range(3)]
            yield (number, f"SKU-{number:05}", title, self.money(300), weight, ratio, sizes, opens, self.moment())

    def orders(self) -> Iterator[tuple[Any, ...]]:
        for number in range(1, ORDERS + 1):
            placed = self.moment()
            status = self.random.choice(("new", "paid", "shipped", "cancelled"))
            note = self.random.choice(_WORDS) if self.random.random() < 0.3 else None
            wait = timedelta(hours=self.random.randrange(100)) if number % 3 == 0 else None
            reference = uuid.UUID(int=self.random.getrandbits(128), version=4)
            customer = self.random.randrange(1, CUSTOMERS + 1)
            yield (number, customer, status, self.money(900), reference, note, wait, placed, placed)

    def order_items(self) -> Iterator[tuple[Any, ...]]:
        for number in range(1, ORDERS + 1):
            for line in range(1, 3 + number % 2):
                product = self.random.randrange(1, PRODUCTS + 1)
                discount = Decimal(self.random.randrange(5_000)) / 10_000 if line == 1 else None
                yield (number, line, product, self.random.randrange(1, 9), self.money(300), discount, self.moment())

    def events(self) -> Iterator[tuple[Any, ...]]:
        for number in range(EVENTS):
            payload = {"path": self.random.choice(_WORDS), "ms": self.random.randrange(5_000)}
            row = (
                self.random.choice(_KINDS),
                f"10.{number % 200}.{number % 7}.1",
                json.dumps(payload, ensure_ascii=False),
                self.moment(),
            )
            yield row

    def chat_sessions(self) -> Iterator[tuple[Any, ...]]:
        for session in self.sessions:
            opened = self.moment().replace(tzinfo=None)
            closed = opened + timedelta(minutes=self.random.randrange(90)) if self.random.random() < 0.8 else None
            customer = self.random.randrange(1, CUSTOMERS + 1) if self.random.random() < 0.7 else None
            yield (
                session,
                customer,
                self.random.choice(("web", "app")),
                opened,
                closed,
                (closed or opened).replace(tzinfo=UTC),
            )

    def chat_messages(self) -> Iterator[tuple[Any, ...]]:
        for number in range(1, MESSAGES + 1):
            attachment = self.random.randbytes(24) if number % 40 == 0 else None
            body = None if number % 97 == 0 else self.random.choice(_LINES).format(name=self.random.choice(_NAMES))
            sender = self.random.choice(("customer", "agent"))
            yield (number, self.random.choice(self.sessions), sender, body, attachment, self.moment())

    def returns(self) -> Iterator[tuple[Any, ...]]:
        yield from ()


def load_shop(connection: psycopg.Connection[Any], progress: Callable[[str, int], None]) -> None:
    """Create the tables and load about 200,000 rows. `progress(table, rows)` is called as rows go in."""
    from psycopg import sql

    shop = _Shop()
    with connection.cursor() as cursor:
        cursor.execute(_SCHEMA)
        for table in TABLES:
            pending = 0
            with cursor.copy(sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(table))) as copy:
                for row in getattr(shop, table)():
                    copy.write_row(row)
                    pending += 1
                    if pending == 2_000:
                        progress(table, pending)
                        pending = 0
            progress(table, pending)
        cursor.execute(_CONSTRAINTS)
    connection.commit()


def begin_late_transaction(connection: psycopg.Connection[Any]) -> None:
    """Write rows with *old* cursor values and leave the transaction open: it commits after the first sync."""
    connection.execute(
        "INSERT INTO orders SELECT 900000 + n, 1000 + n, 'paid', 12.50, gen_random_uuid(), 'late commit', NULL,"
        " timestamptz '2025-02-02 02:02:02Z', timestamptz '2025-02-02 02:02:02Z' FROM generate_series(1, 25) n"
    )
    connection.execute(
        "UPDATE products SET price = price + 1, updated_at = timestamptz '2025-01-05Z' WHERE id BETWEEN 101 AND 110"
    )


def change_shop(connection: psycopg.Connection[Any]) -> None:
    """Insert, update and delete, and give one customer a new primary key."""
    for statement in (
        "INSERT INTO customers SELECT 20000 + n, 'new' || n || '@example.com', 'Nové ☕ ' || n, 'CZ', NULL, '{}',"
        " 'null', NULL, CASE WHEN n % 5 = 0 THEN NULL ELSE now() END FROM generate_series(1, 400) n",
        "INSERT INTO orders SELECT 50000 + n, 1 + n % 12000, 'new', n / 7.0, gen_random_uuid(), NULL, NULL, now(),"
        " now() FROM generate_series(1, 1500) n",
        "INSERT INTO order_items SELECT 50000 + n, 1, 1 + n % 1500, 1, n / 7.0, NULL, now()"
        " FROM generate_series(1, 1500) n",
        "UPDATE orders SET status = 'shipped', updated_at = clock_timestamp() WHERE id % 40 = 0 AND id <= 40000",
        "UPDATE products SET price = price * 1.05, updated_at = now() WHERE id % 25 = 0",
        "UPDATE chat_messages SET body = 'edited ✎', updated_at = now() WHERE id % 150 = 0",
        "UPDATE customers SET id = 30001, updated_at = now() WHERE id = 42",
        "DELETE FROM orders WHERE id % 500 = 1 AND id <= 40000",
        "DELETE FROM chat_sessions WHERE channel = 'app' AND closed_at IS NULL",
        "DELETE FROM events WHERE at < '2025-01-10'",
        "INSERT INTO events SELECT 'refund', NULL, '{\"a\": 1e400}', now() FROM generate_series(1, 300) n",
    ):
        connection.execute(statement)
    connection.commit()

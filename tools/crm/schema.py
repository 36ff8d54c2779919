"""The tables of the CRM world.

Money is integer cents, dates are ISO text, and "today" is a row of `meta`: no tool reads the wall clock. The
ids of a population are drawn without order, so that none can be guessed from another.
"""

from __future__ import annotations

from typing import Final

SCHEMA: Final = """\
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE customers (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL UNIQUE, phone TEXT NOT NULL, city TEXT NOT NULL,
  tier TEXT NOT NULL, status TEXT NOT NULL, credit_balance INTEGER NOT NULL, created_on TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE products (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, category TEXT NOT NULL, price INTEGER NOT NULL, stock INTEGER NOT NULL,
  active INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE orders (
  id TEXT PRIMARY KEY, customer_id TEXT NOT NULL REFERENCES customers, status TEXT NOT NULL, placed_on TEXT NOT NULL,
  total INTEGER NOT NULL, paid INTEGER NOT NULL, refunded INTEGER NOT NULL, shipping_address TEXT NOT NULL,
  closed_reason TEXT
) WITHOUT ROWID;
CREATE TABLE order_items (
  id TEXT PRIMARY KEY, order_id TEXT NOT NULL REFERENCES orders, product_id TEXT NOT NULL REFERENCES products,
  quantity INTEGER NOT NULL, unit_price INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE shipments (
  id TEXT PRIMARY KEY, order_id TEXT NOT NULL REFERENCES orders, carrier TEXT NOT NULL, tracking_number TEXT NOT NULL,
  status TEXT NOT NULL, shipped_on TEXT, expected_on TEXT NOT NULL, delivered_on TEXT
) WITHOUT ROWID;
CREATE TABLE invoices (
  id TEXT PRIMARY KEY, order_id TEXT NOT NULL REFERENCES orders, customer_id TEXT NOT NULL REFERENCES customers,
  amount INTEGER NOT NULL, status TEXT NOT NULL, issued_on TEXT NOT NULL, due_on TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE refunds (
  id TEXT PRIMARY KEY, order_id TEXT NOT NULL REFERENCES orders, amount INTEGER NOT NULL, reason TEXT NOT NULL,
  created_on TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE credits (
  id TEXT PRIMARY KEY, customer_id TEXT NOT NULL REFERENCES customers, amount INTEGER NOT NULL, reason TEXT NOT NULL,
  created_on TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE tickets (
  id TEXT PRIMARY KEY, customer_id TEXT NOT NULL REFERENCES customers, order_id TEXT REFERENCES orders,
  subject TEXT NOT NULL, priority TEXT NOT NULL, status TEXT NOT NULL, assignee TEXT, created_on TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE notes (
  id TEXT PRIMARY KEY, customer_id TEXT NOT NULL REFERENCES customers, ticket_id TEXT REFERENCES tickets,
  text TEXT NOT NULL, created_on TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX orders_customer ON orders (customer_id, placed_on);
CREATE INDEX order_items_order ON order_items (order_id);
CREATE INDEX shipments_order ON shipments (order_id);
CREATE INDEX shipments_tracking ON shipments (tracking_number);
CREATE INDEX invoices_order ON invoices (order_id);
CREATE INDEX invoices_customer ON invoices (customer_id, issued_on);
CREATE INDEX tickets_customer ON tickets (customer_id, created_on);
CREATE INDEX notes_customer ON notes (customer_id, created_on);
"""

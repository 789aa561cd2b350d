//! Writes as people write them.

use super::Value::{Int, Ints, Null, Text};
use super::{Value, Write};

#[rustfmt::skip]
pub(super) const WRITES: &[Write] = &[
    ("INSERT INTO item (id, name) VALUES (31, 'a')", &[]),
    ("INSERT INTO item (id, name, amount) VALUES ($1, $2, $3)", &[Int(32), Text("it's; a"), Int(4)]),
    ("INSERT INTO item (id, name, amount) VALUES ($1, $2, $3) RETURNING id", &[Int(33), Text("c"), Null]),
    ("INSERT INTO item (id, name) VALUES ($1, $2), ($3, $4) RETURNING *", &[Int(34), Text("d"), Int(35), Text("e")]),
    ("insert into item as i (id, name) values (36, 'f') returning i.id as \"id!\", i.data as \"data: _\", doubled", &[]),
    ("INSERT INTO log DEFAULT VALUES", &[]),
    ("INSERT INTO log DEFAULT VALUES RETURNING what, at;", &[]),
    ("INSERT INTO item (id, name) OVERRIDING SYSTEM VALUE VALUES (37, 'g')", &[]),
    ("INSERT INTO item (id, name, amount) VALUES (1, 'h', 7) ON CONFLICT (id) DO UPDATE \
      SET amount = excluded.amount + item.amount RETURNING amount", &[]),
    ("INSERT INTO item (id, name) VALUES ($1, 'n2') ON CONFLICT DO NOTHING", &[Int(2)]),
    ("INSERT INTO item (id, name) VALUES ($1, 'n2') ON CONFLICT (name) DO NOTHING RETURNING id", &[Int(99)]),
    ("INSERT INTO item AS i (id, name) VALUES (3, 'x') ON CONFLICT (id) DO UPDATE SET name = excluded.name \
      WHERE i.amount > 100", &[]),
    ("INSERT INTO item (id, name) VALUES (1, 'n1') ON CONFLICT ON CONSTRAINT item_pkey DO UPDATE SET tags = '{z}'", &[]),
    ("INSERT INTO log (item, what) SELECT id, name FROM item WHERE amount > $1 ORDER BY id", &[Int(20)]),
    ("INSERT INTO log (item, what) SELECT i, 'n' FROM generate_series(1, $1) AS g(i) RETURNING item", &[Int(3)]),
    ("INSERT INTO log (item, what) SELECT * FROM unnest($1::int[], ARRAY['a', 'b'])", &[Ints(&[7, 8])]),
    ("INSERT INTO log (item) WITH x AS (SELECT 5 AS a) SELECT a FROM x RETURNING item", &[]),
    ("INSERT INTO log (item) (SELECT 1 UNION ALL SELECT 2)", &[]),
    ("INSERT INTO \"Odd name\" TABLE \"Odd name\"", &[]),
    ("INSERT INTO log (item, what) VALUES ((SELECT max(id) FROM item), $$a 'b' ; $1$$) RETURNING what", &[]),
    ("INSERT INTO item (id, name, data) VALUES ($1, $2, jsonb_build_object('a', $3::int)) RETURNING data->'a'",
      &[Int(38), Text("i"), Int(3)]),
    ("INSERT INTO item (id, name, parent) VALUES (39, E'j\\n\\'', 1) \
      RETURNING (SELECT name FROM item p WHERE p.id = item.parent)", &[]),
    ("INSERT INTO \"Odd name\" (\"a;b\", \"select\") VALUES ($1, 'b') RETURNING \"a;b\" AS \"with\"", &[Int(2)]),
    ("INSERT INTO event VALUES (3, 1), (13, 2) RETURNING tableoid::regclass = 'event_1'::regclass", &[]),
    ("INSERT INTO cheap (id, name, amount) VALUES (40, 'k', 3) RETURNING amount", &[]),
    ("INSERT INTO acting VALUES (7), (8) RETURNING id", &[]),
    ("INSERT INTO ruled VALUES (70) RETURNING id > 0", &[]),
    ("INSERT INTO log (item, what) VALUES (noting(4), 'outer')", &[]),
    ("/* hint */ INSERT INTO log (what) VALUES ('/* no comment */ -- none') -- tail", &[]),
    ("-- name: add\nINSERT INTO log\n\t(what)\nVALUES\r\n($1) /* a /* b */ ; */;", &[Text("é")]),
    ("UPDATE item SET amount = amount + 1", &[]),
    ("UPDATE item SET amount = $2 WHERE id = $1", &[Int(4), Int(44)]),
    ("UPDATE item SET amount = amount - $1 WHERE id = $2 AND amount >= $1 RETURNING amount", &[Int(1), Int(5)]),
    ("UPDATE item AS i SET name = i.name || $1 WHERE i.id IN (SELECT id FROM item WHERE amount < $2) RETURNING i.name",
      &[Text("+"), Int(5)]),
    ("UPDATE item SET amount = l.n FROM (SELECT item, count(*)::int AS n FROM log GROUP BY item) l \
      WHERE l.item = item.id RETURNING item.id, l.n", &[]),
    ("UPDATE item SET (name, amount) = (SELECT 'sub', 9) WHERE id = 6 RETURNING *", &[]),
    ("UPDATE item SET (name, amount) = ROW('row', DEFAULT) WHERE id = 7", &[]),
    ("UPDATE item SET tags[1] = 'q', data = data || '{\"a\": {\"b\": 1}}' WHERE data @> '{}' AND id < $1", &[Int(9)]),
    ("UPDATE ONLY item SET amount = 0 WHERE id = ANY($1)", &[Ints(&[10, 11])]),
    ("UPDATE item SET amount = 1 WHERE false", &[]),
    ("UPDATE event SET id = id + 10 WHERE id = 4 RETURNING id", &[]),
    ("UPDATE event SET a = a * 2 WHERE id > $1::int", &[Int(12)]),
    ("UPDATE cheap SET amount = 8 WHERE amount = 0", &[]),
    ("UPDATE item SET amount = CASE WHEN id % 2 = 0 THEN amount ELSE 3 END WHERE id BETWEEN 12 AND 15", &[]),
    ("UPDATE item SET amount = 2 WHERE id = (SELECT id FROM item WHERE amount > 5 ORDER BY id LIMIT 1 \
      FOR UPDATE SKIP LOCKED) RETURNING id", &[]),
    ("DELETE FROM log WHERE id = $1", &[Int(1)]),
    ("DELETE FROM log AS l WHERE l.item = $1 RETURNING l.*", &[Int(7)]),
    ("DELETE FROM log USING item WHERE log.item = item.id AND item.amount > 40 RETURNING log.id, item.name", &[]),
    ("DELETE FROM item WHERE NOT EXISTS (SELECT 1 FROM log WHERE log.item = item.id) AND id > 35", &[]),
    ("DELETE FROM event WHERE id IN (SELECT id FROM event ORDER BY id LIMIT 2) RETURNING event", &[]),
    ("WITH x AS (SELECT $1::int AS a) INSERT INTO log (item) SELECT a FROM x RETURNING item", &[Int(90)]),
    ("WITH gone AS (DELETE FROM log WHERE item = 90 RETURNING *) \
      INSERT INTO log (item, what) SELECT item, 'moved' FROM gone", &[]),
    ("WITH moved AS (UPDATE item SET amount = 77 WHERE id = 16 RETURNING id), \
      y(a) AS MATERIALIZED (SELECT id FROM moved) UPDATE event SET a = y.a FROM y WHERE event.id = 15 RETURNING event.a",
      &[]),
    ("WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < $1) \
      INSERT INTO log (item) SELECT n FROM r RETURNING item", &[Int(4)]),
    ("with recursive tree as not materialized (select id from item where id = 1 union \
      select i.id from item i join tree on i.parent = tree.id) \
      update item set amount = 6 from tree where tree.id = item.id returning item.id", &[]),
    ("WITH recursive AS (SELECT 17 AS id) DELETE FROM log USING recursive WHERE log.item = recursive.id", &[]),
    ("WITH recursive (id) AS (SELECT 2) DELETE FROM log USING recursive WHERE log.item = recursive.id", &[]),
    ("WITH insert AS (SELECT 91 AS id), \"delete\" AS (TABLE insert) \
      INSERT INTO log (item) SELECT id FROM \"delete\"", &[]),
    ("WITH rds_proxy_pool_marker AS (SELECT 92 AS a) INSERT INTO log (item) SELECT a FROM RDS_PROXY_POOL_MARKER", &[]),
    ("INSERT INTO log (item) VALUES ($1)", &[Int(93), Text("not used")]),
];

/// One that older servers do not know.
#[rustfmt::skip]
pub(super) const MERGES: &[Write] = &[
    ("MERGE INTO event USING item ON event.id = item.id WHEN MATCHED AND item.id > $1 THEN DELETE \
      WHEN MATCHED THEN UPDATE SET a = item.amount WHEN NOT MATCHED AND item.id < 20 THEN INSERT VALUES (item.id, 0)",
      &[Int(10)]),
    ("WITH x(id) AS (VALUES (3), (19)) MERGE INTO event AS e USING x ON e.id = x.id \
      WHEN MATCHED THEN DO NOTHING WHEN NOT MATCHED THEN INSERT VALUES (x.id, 5)", &[]),
];

/// Writes and the SQLSTATE they fail with.
#[rustfmt::skip]
pub(super) const FAILURES: &[(&str, &[Value], &str)] = &[
    ("INSERT INTO item (id) VALUES (1)", &[], "23505"),
    ("INSERT INTO item (id) VALUES (50), ($1) RETURNING id", &[Int(1)], "23505"),
    ("INSERT INTO item (id, parent) VALUES (50, 51)", &[], "23503"),
    ("UPDATE item SET amount = amount - $1", &[Int(3)], "23514"),
    ("UPDATE item SET data = NULL WHERE id = 3", &[], "23502"),
    ("UPDATE item SET amount = 1 / (id - id)", &[], "22012"),
    ("DELETE FROM missing", &[], "42P01"),
    ("INSERT INTO event VALUES (1, 1), (99, 1)", &[], "23514"),
    ("DELETE FROM item WHERE", &[], "42601"),
    ("INSERT INTO item (id) VALUES (50) RETURNING 1 / (id - 50)", &[], "22012"),
    ("WITH x AS (UPDATE item SET amount = 1) DELETE FROM item WHERE missing = 1", &[], "42703"),
];

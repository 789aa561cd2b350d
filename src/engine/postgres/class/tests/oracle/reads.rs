//! That the rules are of use: what people write to read is recognised as a read.

use sqlx::{AssertSqlSafe, Executor, SqlSafeStr};

use super::Oracle;
use crate::engine::postgres::class::cannot_write;

#[rustfmt::skip]
const READS: &[&str] = &[
    // Plain ones.
    "SELECT 1",
    "select 1 as one;",
    "SELECT $1::int + 1",
    "SELECT * FROM t",
    "SELECT t.* FROM public.t AS t",
    "SELECT id, name FROM t WHERE id = $1",
    "SELECT id, name AS \"name!\", a AS \"a?: i32\" FROM t WHERE id = $1",
    "SELECT \"id\", \"name\" FROM \"public\".\"t\" WHERE \"t\".\"id\" = $1 LIMIT $2",
    "SELECT * FROM t WHERE id IN ($1, $2, $3)",
    "SELECT * FROM t WHERE id = ANY($1)",
    "SELECT * FROM t WHERE id = ANY($1::int[])",
    "SELECT * FROM t WHERE id <> ALL($1)",
    "SELECT * FROM t WHERE (id, a) IN ((1, 2), (3, 4))",
    "SELECT * FROM t WHERE (id, a) > ($1, $2) ORDER BY id, a LIMIT 20",
    "SELECT * FROM t WHERE id IN (SELECT t_id FROM u)",
    "SELECT * FROM t WHERE NOT EXISTS (SELECT 1 FROM u WHERE u.t_id = t.id)",
    "SELECT EXISTS(SELECT 1 FROM t WHERE name = $1)",
    "SELECT EXISTS (SELECT 1 FROM t WHERE name = $1) AS \"exists!\"",
    "SELECT COUNT(*) FROM t",
    "SELECT count(DISTINCT name) FROM t WHERE at > now() - interval '1 day'",
    "SELECT * FROM t WHERE at BETWEEN $1 AND $2",
    "SELECT * FROM t WHERE at >= date_trunc('month', now()) ORDER BY at DESC NULLS LAST",
    "SELECT * FROM t WHERE name LIKE $1 || '%'",
    "SELECT * FROM t WHERE name ILIKE '%' || $1 || '%'",
    "SELECT * FROM t WHERE name ILIKE ('%' || $1 || '%')",
    "SELECT * FROM t WHERE lower(name) LIKE (lower($1) || '%')",
    "SELECT * FROM t WHERE name NOT LIKE 'a!_%' ESCAPE '!'",
    "SELECT * FROM t WHERE name ~* '^n[0-9]+$'",
    "SELECT * FROM t WHERE a IS NOT DISTINCT FROM $1",
    "SELECT * FROM t WHERE ($1::text IS NULL OR name = $1)",
    "SELECT * FROM t ORDER BY CASE WHEN a = $1 THEN 0 ELSE 1 END, id OFFSET 10 ROWS FETCH NEXT 5 ROWS ONLY",
    "SELECT DISTINCT name FROM t ORDER BY name",
    "SELECT DISTINCT ON (b) b, id, at FROM t ORDER BY b, at DESC",
    "-- name: all\nSELECT *\nFROM t\n/* the newest */\nORDER BY at DESC\n",
    "TABLE t",
    "VALUES (1, 'a'), (2, 'b')",
    "SHOW server_version",
    "SHOW TRANSACTION ISOLATION LEVEL",
    "(SELECT id FROM t) UNION (SELECT id FROM u) ORDER BY 1",
    "SELECT id FROM t UNION ALL SELECT id FROM u",
    "SELECT id FROM t EXCEPT SELECT t_id FROM u",
    "SELECT id FROM t INTERSECT SELECT t_id FROM u",
    // Joins.
    "SELECT t.id, u.name FROM t JOIN u ON u.t_id = t.id",
    "SELECT t.id, u.name FROM t INNER JOIN u ON (u.t_id = t.id AND u.score > $1)",
    "SELECT t.id, u.name AS \"u_name?\" FROM t LEFT JOIN u ON u.t_id = t.id WHERE u.id IS NULL",
    "SELECT * FROM t LEFT OUTER JOIN u USING (id)",
    "SELECT * FROM t FULL JOIN u USING (id) CROSS JOIN generate_series(1, 2) AS g",
    "SELECT * FROM t NATURAL JOIN u",
    "SELECT * FROM t, u WHERE t.id = u.t_id",
    "SELECT t.id, x.n FROM t JOIN (SELECT t_id, count(*) AS n FROM u GROUP BY t_id) x ON x.t_id = t.id",
    "SELECT t.id, x.* FROM t LEFT JOIN LATERAL (SELECT * FROM u WHERE u.t_id = t.id ORDER BY score DESC LIMIT 3) x ON true",
    "SELECT * FROM t CROSS JOIN LATERAL unnest(t.tags) AS tag",
    "SELECT * FROM t JOIN u ON u.t_id = t.id JOIN t AS t2 ON t2.id = u.id AND t2.a IN (1, 2)",
    "SELECT * FROM t LEFT JOIN (u JOIN t AS v ON v.id = u.t_id) ON u.id = t.id",
    "SELECT * FROM t JOIN (VALUES (1, 'x'), (2, 'y')) AS v(id, label) USING (id)",
    "SELECT * FROM t JOIN unnest($1::int[], $2::text[]) AS v(id, label) ON v.id = t.id",
    "SELECT * FROM unnest($1::int[]) WITH ORDINALITY AS v(id, place) LEFT JOIN t ON t.id = v.id ORDER BY place",
    // With-queries.
    "WITH x AS (SELECT * FROM t WHERE a > 1) SELECT * FROM x",
    "WITH x AS (SELECT 1 AS a), y AS (SELECT a + 1 AS b FROM x) SELECT * FROM x, y",
    "WITH x(a, b) AS (VALUES (1, 2)) SELECT a, b FROM x",
    "WITH x AS MATERIALIZED (SELECT * FROM t) SELECT count(*) FROM x",
    "WITH x AS NOT MATERIALIZED (SELECT * FROM t) SELECT count(*) FROM x",
    "WITH RECURSIVE r AS (SELECT id, a FROM t WHERE id = $1 UNION ALL SELECT t.id, t.a FROM t JOIN r ON t.a = r.id + 1) SELECT * FROM r",
    "WITH RECURSIVE r(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM r WHERE n < 10) SELECT sum(n) FROM r",
    // Groups and windows.
    "SELECT b, count(*), sum(a), avg(a), min(a), max(a) FROM t GROUP BY b HAVING count(*) > 1",
    "SELECT date_trunc('day', at) AS day, count(*) FILTER (WHERE a > 1) AS some FROM t GROUP BY 1 ORDER BY 1",
    "SELECT coalesce(sum(score), 0)::float8 FROM u",
    "SELECT COALESCE(SUM(score), 0) AS \"total!\" FROM u WHERE day >= CURRENT_DATE",
    "SELECT b, array_agg(id ORDER BY id) FROM t GROUP BY (b)",
    "SELECT b, string_agg(name, ', ' ORDER BY name) FROM t GROUP BY b",
    "SELECT b, percentile_cont(0.95) WITHIN GROUP (ORDER BY a) FROM t GROUP BY b",
    "SELECT a, b, sum(id) FROM t GROUP BY ROLLUP (a, b)",
    "SELECT a, b, grouping(a), sum(id) FROM t GROUP BY GROUPING SETS ((a), (b), ())",
    "SELECT a, b, sum(id) FROM t GROUP BY CUBE (a, b)",
    "SELECT id, row_number() OVER (PARTITION BY b ORDER BY at DESC) AS place FROM t",
    "SELECT * FROM (SELECT t.*, rank() OVER (ORDER BY a) AS place FROM t) ranked WHERE place <= 3",
    "SELECT id, lag(a) OVER w, lead(a, 1, 0) OVER w FROM t WINDOW w AS (ORDER BY id)",
    "SELECT id, sum(a) OVER (ORDER BY id ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) FROM t",
    "SELECT id, count(*) FILTER (WHERE b = 1) OVER (PARTITION BY b), count(*) OVER() AS total FROM t LIMIT 10",
    "SELECT id, first_value(a) OVER (PARTITION BY b ORDER BY id RANGE UNBOUNDED PRECEDING) FROM t",
    // JSON.
    "SELECT data->>'a' FROM t WHERE data @> '{\"a\": 1}'",
    "SELECT data#>>'{b,0}', data->'b'->0, (data->>'a')::int FROM t WHERE data ? 'a'",
    "SELECT * FROM t WHERE data @> $1::jsonb AND data ?| array['a', 'b'] AND data ?& ARRAY['a']",
    "SELECT json_build_object('id', id, 'name', name) FROM t",
    "SELECT jsonb_agg(jsonb_build_object('id', u.id)) FROM u GROUP BY t_id",
    "SELECT t.id, coalesce(json_agg(u.*) FILTER (WHERE u.id IS NOT NULL), '[]') FROM t LEFT JOIN u ON u.t_id = t.id GROUP BY t.id",
    "SELECT row_to_json(x) FROM (SELECT id, name FROM t) x",
    "SELECT to_jsonb(t) FROM t",
    "SELECT element->>'a' FROM t, jsonb_array_elements(data->'b') AS element",
    "SELECT e.key, e.value FROM t, jsonb_each_text(data) AS e(key, value)",
    "SELECT jsonb_path_query(data, '$.b[*] ? (@ > 1)') FROM t",
    "SELECT jsonb_set(data, '{a}', '2'), data - 'a', data || '{\"c\": 3}' FROM t WHERE jsonb_typeof(data) = 'object'",
    // Arrays, texts, times.
    "SELECT * FROM t WHERE 'x' = ANY(tags) AND tags && ARRAY['y'] AND tags @> ARRAY['x']::text[]",
    "SELECT tags[1], tags[1:2], cardinality(tags), array_length(tags, 1), array_to_string(tags, ',') FROM t",
    "SELECT ARRAY(SELECT id FROM t ORDER BY id)",
    "SELECT concat_ws(' ', name, a), upper(left(name, 1)) || substr(name, 2), length(trim(BOTH ' ' FROM name)) FROM t",
    "SELECT split_part(name, '@', 2), regexp_replace(name, '\\d', '', 'g'), position('n' IN name) FROM t",
    "SELECT substring(name FROM 1 FOR 3), overlay(name PLACING 'x' FROM 1 FOR 1), replace(name, E'\\n', ' ') FROM t",
    "SELECT extract(epoch FROM at)::bigint, at AT TIME ZONE 'UTC', to_char(at, 'YYYY-MM-DD'), age(now(), at) FROM t",
    "SELECT now() - make_interval(days => $1), $2::timestamptz + $3 * interval '1 second', date '2020-01-01'",
    "SELECT d::date FROM generate_series($1::timestamptz, $2, interval '1 day') AS d",
    "SELECT CAST(score AS numeric(10, 2)), score::int, round(score, 2), nullif(score, 0), greatest(score, 1) FROM u",
    "SELECT md5(name), encode(sha256(name::bytea), 'hex'), gen_random_uuid() FROM t",
    // Full text.
    "SELECT * FROM t WHERE to_tsvector('english', name) @@ plainto_tsquery('english', $1)",
    "SELECT id, ts_rank(to_tsvector(name), q) AS rank FROM t, websearch_to_tsquery($1) AS q WHERE to_tsvector(name) @@ q ORDER BY rank DESC",
    "SELECT ts_headline('english', name, to_tsquery($1)) FROM t",
    // The session and the catalog.
    "SELECT version()",
    "SELECT current_user, session_user, current_database(), current_schema()",
    "SELECT current_setting('transaction_read_only'), pg_is_in_recovery()",
    "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'",
    "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace",
];

#[tokio::test]
async fn reads_as_people_write_them_are_known_to_be_reads() {
    assert!(READS.len() >= 100, "{}", READS.len());
    let unknown: Vec<_> = READS.iter().filter(|sql| !cannot_write(sql)).collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
    let Some(mut oracle) = Oracle::start().await else { return };
    for sql in READS {
        if let Err(error) = oracle.session.prepare(AssertSqlSafe(*sql).into_sql_str()).await {
            panic!("the server knows no such query: {sql}\n{error}");
        }
    }
    oracle.judge(READS.iter().filter(|sql| !sql.contains('$')).map(|sql| (*sql).to_owned())).await;
}

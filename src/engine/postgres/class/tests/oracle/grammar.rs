//! Random texts of SQL's own grammar, with calls of what writes in all places where an expression or a table can be.

use fastrand::Rng;

use super::{Oracle, cases};

/// What a symbol can become; the first two lead to no others.
#[rustfmt::skip]
fn productions(symbol: char) -> &'static [&'static str] {
    match symbol {
        // A query.
        'q' => &[
            "TABLE t", "SELECT 1", "SELECT {l}", "SELECT {l} FROM {r}", "SELECT {l} FROM {r} WHERE {p}",
            "SELECT {e} FROM {r} WHERE {p} GROUP BY {g} HAVING {p}", "SELECT DISTINCT {l} FROM {r} ORDER BY 1",
            "SELECT DISTINCT ON ({e}) {l} FROM {r}", "SELECT ALL {e} FROM {r} ORDER BY {e}, {i} DESC NULLS LAST",
            "SELECT {e} FROM {r} LIMIT {i} OFFSET {i}", "SELECT * FROM {r} FETCH FIRST {i} ROWS ONLY",
            "SELECT {e} FROM {r} ORDER BY 1 FETCH NEXT ({i}) ROWS WITH TIES", "{q} UNION ALL {q}", "({q}) EXCEPT ({q})",
            "WITH {c} {q}", "WITH {c}, y AS ({q}) {q}", "VALUES ({e}), ({e})", "({q})", "SHOW work_mem",
            "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < {i}) {q}",
            "SELECT sum(a) OVER w, {e} FROM t WINDOW w AS ({w})", "SELECT FROM {r}", "SELECT {l} INTO copied FROM {r}",
            "{q} FOR UPDATE", "{q} FOR KEY SHARE OF t", "EXPLAIN ANALYZE {q}", "{q}; {q}", "SELECT {l} FROM {r} FOR SHARE",
            "WITH RECURSIVE r(n) AS ({q}) SEARCH DEPTH FIRST BY n SET o CYCLE n SET c USING p SELECT {e} FROM r",
        ],
        // With-queries.
        'c' => &[
            "x AS (SELECT 1)", "x(a) AS (TABLE u)", "x AS ({q})", "x(a) AS MATERIALIZED ({q})", "{n} AS NOT MATERIALIZED ({q})",
            "x AS (INSERT INTO touched (by) {q} RETURNING *)", "x AS (DELETE FROM touched WHERE {p} RETURNING {e})",
        ],
        // A list of columns.
        'l' => &["*", "1", "{e}", "{e}, {e}", "{e} AS {n}", "{e} {n}", "t.*", "{e}, {f}"],
        // What a query reads from.
        'r' => &[
            "t", "u", "t AS {n}", "{r} JOIN {r} ON {p}", "{r} CROSS JOIN {r}", "t LEFT JOIN LATERAL ({q}) x ON {p}",
            "({q}) {n}", "({q}) AS {n}", "{f}", "{f} {n}", "{f} AS {n}(a)", "{f} {n}(a)", "ROWS FROM ({f}, {f}) WITH ORDINALITY",
            "t, LATERAL {f}", "t TABLESAMPLE system ({i})", "generate_series(1, 3) g(n)", "(VALUES ({e})) v(a)",
            "t NATURAL JOIN {r}", "t JOIN ({r} CROSS JOIN u) ON {p}", "ONLY (t)", "t FULL JOIN {f} ON {p}", "t JOIN u USING (id), {r}",
            "json_to_recordset('[]') AS x(a int)", "t TABLESAMPLE {n} ({i}) REPEATABLE ({i})", "ROWS FROM ({f} AS (a int)) x",
        ],
        // Any value.
        'e' => &[
            "NULL", "data->'a'", "{i}", "{s}", "{p}", "{i}", "{s}", "{p}", "CASE WHEN {p} THEN {e} ELSE {e} END",
            "CASE {e} WHEN {e} THEN {e} END", "CAST({e} AS text)", "{e}::text", "({q})", "ARRAY[{e}]", "ARRAY({q})", "ROW({e})",
            "({e})", "{f}", "now() AT TIME ZONE {s}", "t.a", "current_date", "COLLATION FOR ({s})", "interval '1 day'",
            "extract(epoch FROM now())", "json_build_object({s}, {e})", "tags[{i}]", "tags[1:{i}]", "text {s}", "(ROW({e})).f1",
            "XMLELEMENT(NAME a, {e})", "array_agg(DISTINCT {e})", "jsonb_agg({e} ORDER BY {e})", "make_interval(days => {i})",
        ],
        // A number.
        'i' => &[
            "1", "a", "id", "{f}", "{i} + {i}", "({i})", "coalesce({i}, {i})", "greatest({i}, {i})", "length({s})", "count(*)",
            "sum({i}) FILTER (WHERE {p})", "sum({i}) OVER ({w})", "row_number() OVER ({w})", "- {i}", "nullif({i}, {i})",
            "percentile_disc(0.5) WITHIN GROUP (ORDER BY {i})", "position({s} IN {s})", "value", "first", "{i} * 2", "{i}::int",
            "count(DISTINCT {e}) FILTER (WHERE {p}) OVER ({w})",
        ],
        // A text.
        's' => &[
            "'x'", "E'x\\n'", "$$x$$", "$tag$ ' $tag$", "N'x'", "U&'\\0061'", "U&'!0061' UESCAPE '!'", "name", "{f}", "{s} || {s}",
            "lower({s})", "trim(LEADING {s} FROM {s})", "trim({s})", "substring({s} FROM {i} FOR {i})", "{s} COLLATE \"C\"",
            "overlay({s} PLACING {s} FROM {i})", "concat({s}, VARIADIC ARRAY[{s}])", "format('%s', {e})", "'a'\n'b'",
            "string_agg({s}, ',' ORDER BY {s})", "substring({s} SIMILAR {s} ESCAPE {s})", "concat(VARIADIC {f})", "\"name\"",
        ],
        // A condition.
        'p' => &[
            "true", "a = b", "{i} = {i}", "{s} LIKE {s}", "{s} NOT LIKE {s} ESCAPE {s}", "{s} ILIKE ({s})", "{s} SIMILAR TO {s}",
            "NOT {p}", "{p} AND {p}", "{p} OR {p}", "{i} BETWEEN SYMMETRIC {i} AND {i}", "{i} IN ({i}, {i})", "{i} IN ({q})",
            "{i} = ANY(ARRAY[{i}])", "EXISTS ({q})", "{e} IS NULL", "{e} IS DISTINCT FROM {e}", "{f}", "({p})", "NOT ({p})",
            "tags @> ARRAY[{s}]", "{s} NOT ILIKE {s}", "{i} NOT BETWEEN {i} AND {i}", "(now(), now()) OVERLAPS (now(), now())",
            "{p} IS NOT TRUE", "{s} ~ {s}", "data ? {s}", "{i} > ALL ({q})", "{e} IS DOCUMENT", "{s} IS NFC NORMALIZED",
            "NOT {f}", "name LIKE ({s})", "t.name NOT ILIKE ({s})",
        ],
        // What to group by.
        'g' => &["1", "a", "{e}", "ROLLUP ({e})", "CUBE ({i}, {i})", "GROUPING SETS (({i}), ())", "()", "{f}"],
        // A window.
        'w' => &[
            "", "ORDER BY a", "PARTITION BY {e}", "PARTITION BY {i} ORDER BY {i} ROWS {i} PRECEDING", "ORDER BY {f}",
            "ORDER BY id ROWS BETWEEN {i} PRECEDING AND CURRENT ROW", "ROWS BETWEEN UNBOUNDED PRECEDING AND {i} FOLLOWING",
            "ORDER BY id RANGE {i} PRECEDING", "ORDER BY id GROUPS {i} PRECEDING EXCLUDE TIES",
        ],
        // What is harmless to call.
        'h' => &["now()", "abs(1)", "upper({s})", "generate_series(1, 2)", "unnest(tags)", "version()", "\"lower\"({s})"],
        // What is not.
        'd' => &[
            "{k}()", "{k}(1)", "{k}({i})", "{k}({s})", "{k} ({p})", "{k}({i}, {i})", "\"{k}\"({i})", "app.lower({s})", "touch('x')",
            "{k}({s}, {s})", "{k}(1)", "{k}('x')", "{k}(a)", "nextval('s')", "setval('s', 3)", "pg_notify('channel', {s})",
            "pg_advisory_lock(1)", "pg_try_advisory_lock(2)", "set_config('my.setting', {s}, false)", "lo_create(0)", "\"touch\"('x')",
            "pg_logical_emit_message(true, 'a', {s})", "txid_current()", "pg_current_xact_id()", "pg_stat_reset()",
            "query_to_xml('SELECT nextval(''s'')', true, true, '')", "\"Lower\"({s})", "U&\"t!006fuch\" UESCAPE '!' ({s})",
            "U&\"t\\006fuch\"({s})", "public . touch({s})", "app.U&\"lower\"({s})", "app . lower /**/ ({s})", "pg_cancel_backend(0)", "nextval /* ' */ -- '\n ('s')",
        ],
        _ => panic!("no symbol: {symbol}"),
    }
}

/// What there is between words: nothing else may change the meaning of a text.
const GAPS: &[&str] =
    &["\n", "  ", "/**/", " /* ' */", "/* /* */ \" */", " -- ' \"\n", "\t", "\r", "/* $$ */", "--\r", "/***/"];

struct Text<'a> {
    rng: &'a mut Rng,
    keywords: &'a [String],
    /// The share of calls that are not harmless.
    dirt: f64,
}

impl Text<'_> {
    fn whole(rng: &mut Rng, keywords: &[String]) -> String {
        let (dirt, depth) = if rng.bool() { (0.0, 7) } else { (0.7, 4) };
        let mut text = Text { rng, keywords, dirt };
        let sql = text.expand('q', depth);
        text.alter(&sql)
    }

    fn expand(&mut self, symbol: char, depth: usize) -> String {
        let choices = match symbol {
            'k' | 'n' => return self.rng.choice(self.keywords).cloned().unwrap_or_default(),
            'f' if self.rng.f64() < self.dirt => productions('d'),
            'f' => productions('h'),
            symbol => productions(symbol),
        };
        let choices = if depth == 0 { &choices[..2] } else { choices };
        let mut rest = choices[self.rng.usize(..choices.len())];
        let mut text = String::new();
        while let Some((before, after)) = rest.split_once('{') {
            text.push_str(before);
            let mut inside = after.chars();
            match (inside.next(), inside.next()) {
                (Some(symbol), Some('}')) => text.push_str(&self.expand(symbol, depth.saturating_sub(1))),
                _ => panic!("a brace that is no symbol: {rest}"),
            }
            rest = inside.as_str();
        }
        text + rest
    }

    /// Other gaps and other case, and now and then a word more or less.
    fn alter(&mut self, sql: &str) -> String {
        let mut words: Vec<String> = sql.split(' ').map(str::to_owned).collect();
        for _ in 0..self.rng.usize(..3).saturating_sub(1) {
            let (from, to) = (self.rng.usize(..words.len()), self.rng.usize(..words.len()));
            match self.rng.u8(..4) {
                0 => drop(words.remove(from)),
                1 => words.swap(from, to),
                2 => words.insert(to, words[from].clone()),
                _ => words.insert(to, self.expand('d', 1)),
            }
            if words.is_empty() {
                break;
            }
        }
        let mut text = String::new();
        for word in words {
            let gap = if self.rng.u8(..8) == 0 { self.rng.choice(GAPS).copied().unwrap_or(" ") } else { " " };
            let word = if self.rng.u8(..8) == 0 { word.to_lowercase() } else { word };
            text.push_str(if text.is_empty() { "" } else { gap });
            text.push_str(&word);
        }
        text
    }
}

#[tokio::test]
async fn what_changed_anything_is_never_said_to_write_nothing() {
    let Some(mut oracle) = Oracle::start().await else { return };
    let keywords: Vec<String> = sqlx::query_scalar("SELECT word FROM pg_get_keywords() UNION VALUES ('f'), ('x')")
        .fetch_all(&mut oracle.session)
        .await
        .unwrap();
    // Each word in each place that a generator hits too seldom with all of them.
    let places =
        ["SELECT {}(1)", "SELECT NOT {}(1)", "SELECT * FROM {}(1)", "SELECT 1 {}(1)", "SELECT a {} (1) FROM t"];
    let more = ["SELECT DISTINCT ON (a) {}(1) FROM t", "SELECT * FROM t JOIN {}(1) x ON true", "SELECT \"{}\"(1)"];
    let even = ["SELECT concat('a', VARIADIC {}('x'))", "SELECT a FROM t WHERE NOT {}(a)", "SELECT 1 ORDER BY {}(1)"];
    let places = [&places[..], &more, &even].concat();
    let each: Vec<String> =
        keywords.iter().flat_map(|word| places.iter().map(|place| place.replace("{}", word))).collect();
    println!("each word: {:?}", oracle.judge(each.into_iter()).await);
    let mut rng = Rng::with_seed(1);
    let texts = (0..cases(3000)).map(|_| Text::whole(&mut rng, &keywords));
    let tally = oracle.judge(texts).await;
    println!("grammar: {tally:?}");
    assert!(tally.run * 5 > tally.texts && tally.accepted * 4 > tally.run, "the generator misses its aim: {tally:?}");
}

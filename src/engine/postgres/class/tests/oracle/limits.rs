//! What a text cannot tell: each documented limit of `cannot_write`, shown to be one.

use super::Oracle;
use crate::engine::postgres::class::cannot_write;

/// All of it is seen only by who looks there, so that no other test meets it.
const CONTENTS: &str = "
CREATE SCHEMA limits;
SET search_path = limits, public;
CREATE VIEW acting AS SELECT touch('view') AS a;
CREATE FUNCTION both_true(boolean, boolean) RETURNS boolean LANGUAGE sql AS 'SELECT touch(''operator'')';
CREATE OPERATOR + (FUNCTION = both_true, LEFTARG = boolean, RIGHTARG = boolean);
CREATE OPERATOR += (FUNCTION = both_true, LEFTARG = boolean, RIGHTARG = boolean);
CREATE TYPE pair AS (a int);
CREATE FUNCTION pair_to_int(pair) RETURNS int LANGUAGE sql AS 'SELECT touch(''cast'')::int';
CREATE CAST (pair AS int) WITH FUNCTION pair_to_int(pair);
CREATE DOMAIN checked AS text CHECK (touch(VALUE));
CREATE FUNCTION allowed() RETURNS boolean LANGUAGE sql SECURITY DEFINER AS 'SELECT public.touch(''policy'')';
CREATE TABLE guarded AS SELECT 1 AS a;
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
CREATE POLICY acting ON guarded USING (allowed());
GRANT USAGE ON SCHEMA limits TO app;
GRANT SELECT ON guarded TO app;
CREATE FUNCTION lower(int) RETURNS boolean LANGUAGE sql AS 'SELECT touch(''lower'')';
CREATE FUNCTION now() RETURNS boolean LANGUAGE sql AS 'SELECT touch(''now'')';
CREATE FUNCTION act(public.t) RETURNS boolean LANGUAGE sql AS 'SELECT touch(''act'')';
";

/// What is beyond the text, how a session sees it, and the text.
const LIMITS: &[(&str, &str, &str)] = &[
    ("a view", "SET search_path = limits, public", "SELECT * FROM acting"),
    ("an operator", "SET search_path = limits, public", "SELECT true + false"),
    ("an operator of known characters", "SET search_path = limits, public", "SELECT true += false"),
    ("a cast", "SET search_path = limits, public", "SELECT CAST(ROW(1)::pair AS int)"),
    ("the check of a domain", "SET search_path = limits, public", "SELECT 'a'::checked"),
    ("a policy", "SET ROLE app", "SELECT * FROM limits.guarded"),
    ("a built-in's name for other arguments", "SET search_path = limits, public", "SELECT lower(1)"),
    ("a built-in's name that is found earlier", "SET search_path = limits, pg_catalog, public", "SELECT now()"),
    ("a call like a column", "SET search_path = limits, public", "SELECT t.act FROM t"),
    ("a call like a field", "SET search_path = limits, public", "SELECT (t).act FROM t"),
    ("the temporary schema that comes with its first use", "SET search_path = pg_temp", "SELECT current_schema()"),
];

#[tokio::test]
async fn beyond_the_text_there_are_these_limits() {
    let Some(mut oracle) = Oracle::start().await else { return };
    oracle.server.execute(CONTENTS).await;
    for (limit, settings, sql) in LIMITS {
        oracle.set(settings).await;
        assert!(cannot_write(sql), "{limit} is no limit any more: {sql}");
        assert!(oracle.change(sql).await.is_some(), "{limit} changed nothing: {sql}");
    }
    oracle.server.execute("SET client_min_messages = error; DROP SCHEMA limits CASCADE").await;
}

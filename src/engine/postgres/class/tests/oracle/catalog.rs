//! That the server knows the lists' words as what the lists say they are.

use super::Oracle;
use crate::engine::postgres::class::{NO_FUNCTION, PURE};

/// Those of [`PURE`] that give another answer each time, by the clock, by chance or after a failover: nothing of it lasts.
const VOLATILE: &[&str] = &["clock_timestamp", "gen_random_uuid", "pg_is_in_recovery", "timeofday"];

/// Those that the server does not leave to a worker process, with the reason.
const IN_THE_SESSION_ALONE: &[(&str, &str)] = &[
    ("age", "that of a transaction's number reads the session's transaction, and gives it none"),
    ("current_schema", "it makes the temporary schema where that is the first to look in: a documented limit"),
    ("pg_backend_pid", "a worker has another one"),
];

#[tokio::test]
async fn every_pure_function_is_built_in_and_none_of_its_forms_is_known_to_write() {
    let Some(mut oracle) = Oracle::start().await else { return };
    let forms = "SELECT DISTINCT proname::text, provolatile::text, proparallel::text, l.lanname::text FROM pg_proc \
                 JOIN pg_language l ON l.oid = prolang \
                 WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = ANY($1) ORDER BY 1";
    let forms: Vec<(String, String, String, String)> =
        sqlx::query_as(forms).bind(PURE).fetch_all(&mut oracle.session).await.unwrap();
    let version: i32 = sqlx::query_scalar("SELECT current_setting('server_version_num')::int")
        .fetch_one(&mut oracle.session)
        .await
        .unwrap();
    let unknown: Vec<_> = PURE.iter().filter(|name| !forms.iter().any(|form| form.0 == **name)).collect();
    assert!(version < 150_000 || unknown.is_empty(), "not built in: {unknown:?}");
    let mut volatile: Vec<_> = forms.iter().filter(|form| form.1 == "v").map(|form| form.0.as_str()).collect();
    volatile.dedup();
    assert_eq!(volatile, VOLATILE);
    let mut alone: Vec<_> = forms.iter().filter(|form| form.2 != "s").map(|form| form.0.as_str()).collect();
    alone.dedup();
    assert_eq!(alone, IN_THE_SESSION_ALONE.iter().map(|(name, _)| *name).collect::<Vec<_>>());
}

#[tokio::test]
async fn no_function_has_one_of_these_names_unless_it_is_quoted() {
    let Some(mut oracle) = Oracle::start().await else { return };
    let words = "SELECT word FROM pg_get_keywords() WHERE catcode IN ('R', 'C')";
    let words: Vec<String> = sqlx::query_scalar(words).fetch_all(&mut oracle.session).await.unwrap();
    for word in NO_FUNCTION {
        assert!(words.iter().any(|reserved| reserved == word), "{word} can be the name of a function");
    }
}

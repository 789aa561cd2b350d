//! A real server says whether a text ended the transaction it was sent in.
//!
//! The first savepoint of a transaction, with a name of its own, is there as long as the transaction is, even if it has
//! failed, and no other transaction has it.

use fastrand::Rng;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions};

use super::super::forbidden_in_closure;
use crate::engine::postgres::class::tests::oracle::{cases, soup, support};

const CONTENTS: &str = "
CREATE TABLE t (id int, a int);
CREATE TABLE canary (id int);
CREATE PROCEDURE committing() LANGUAGE plpgsql AS 'BEGIN COMMIT; END';
CREATE PROCEDURE rolling_back() LANGUAGE plpgsql AS 'BEGIN ROLLBACK; END';
";

/// Statements that leave the transaction open, fail, or end it.
#[rustfmt::skip]
const STATEMENTS: &[&str] = &[
    "SELECT 1", "INSERT INTO t VALUES (1, 2)", "UPDATE t SET a = 1", "SELECT 1/0", "no SQL", "", "SELECT ';'", "SELECT $$;$$",
    "SAVEPOINT a", "SAVEPOINT a", "RELEASE a", "ROLLBACK TO a", "ROLLBACK WORK TO SAVEPOINT a", "ROLLBACK TRANSACTION TO a",
    "ROLLBACK TO SAVEPOINT a", "ABORT TO a", "SET TRANSACTION READ ONLY", "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
    "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "COMMIT", "COMMIT", "COMMIT AND CHAIN", "COMMIT WORK", "COMMIT TRANSACTION",
    "END", "END WORK", "ROLLBACK", "ROLLBACK", "ROLLBACK AND CHAIN", "ROLLBACK WORK", "ABORT", "ABORT AND CHAIN", "BEGIN",
    "START TRANSACTION", "PREPARE TRANSACTION 'x'", "COMMIT PREPARED 'x'", "ROLLBACK PREPARED 'x'", "PREPARE x AS SELECT 1",
    "EXECUTE x", "DEALLOCATE ALL", "DISCARD ALL", "CALL committing()", "CALL rolling_back()", "DO $$ BEGIN COMMIT; END $$",
    "DO 'BEGIN ROLLBACK; END'", "VACUUM", "EXPLAIN ANALYZE SELECT 1", "LOCK TABLE t", "DECLARE c CURSOR FOR SELECT 1", "CLOSE ALL",
    "CREATE RULE r AS ON INSERT TO t DO ALSO (SELECT 1; SELECT 2)", "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END",
    "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1 AS case; SELECT 2", "CREATE TABLE x (begin text, atomic text)",
    "CREATE OR REPLACE PROCEDURE p() BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; END", "CREATE PROCEDURE q() BEGIN ATOMIC END",
    "SELECT CASE WHEN true THEN 1 END", "SELECT 1 AS end", "SELECT (1", "SELECT 1)", "CREATE FUNCTION f() RETURNS int RETURN 1",
];

/// What may stand between words.
#[rustfmt::skip]
const GAPS: &[&str] = &[
    " ", " ", " ", " ", "\n", "/**/", " /* ; */ ", " --\n", "-- ;\r", "\t", "/* /* */ COMMIT; */", "\u{c}", "\u{b}", "\u{a0}", "",
    "-- TO a\n", "/* TO a */", "/*/", "*/", "'", "\"", "$$", "$a$", "\\", "(", ")", ";", ";;", "é", "\u{2028}", "$", "1", "--",
];

/// Some statements, with other case and other gaps than they have.
fn mix(rng: &mut Rng) -> String {
    let mut text = String::new();
    for number in 0..rng.usize(1..4) {
        if number > 0 || rng.u8(..8) == 0 {
            text.push_str([";", "; ", " ; ", ";--\n", ";/**/", "\n"][rng.usize(..6)]);
        }
        let statement = STATEMENTS[rng.usize(..STATEMENTS.len())];
        let kept = rng.bool();
        for (place, word) in statement.split(' ').enumerate() {
            let gap = if kept || rng.u8(..4) > 0 { " " } else { GAPS[rng.usize(..GAPS.len())] };
            text.push_str(if place == 0 && gap == " " { "" } else { gap });
            text.push_str(&if rng.bool() { word.to_owned() } else { word.to_lowercase() });
        }
    }
    if rng.u8(..4) == 0 {
        text.push_str(GAPS[rng.usize(..GAPS.len())]);
    }
    text
}

/// Literals that would let a COMMIT out, were they to end earlier than the lexer thinks.
fn trap(rng: &mut Rng) -> String {
    soup::text(rng).replace("SELECT touch('x')", "COMMIT").replace("SELECT touch(text(1))", "COMMIT")
}

/// A session in a transaction.
struct Session {
    options: PgConnectOptions,
    settings: &'static str,
    connection: PgConnection,
    transactions: usize,
    accepted: usize,
    failed: usize,
}

impl Session {
    async fn open(options: &PgConnectOptions, settings: &'static str) -> Self {
        let options = options.clone().options([("statement_timeout", "1s")]);
        let connection = options.connect().await.unwrap();
        let mut session = Session { options, settings, connection, transactions: 0, accepted: 0, failed: 0 };
        session.reopen().await;
        session
    }

    async fn reopen(&mut self) {
        self.connection = self.options.connect().await.unwrap();
        sqlx::raw_sql(self.settings).execute(&mut self.connection).await.unwrap();
        self.begin().await;
    }

    async fn begin(&mut self) {
        self.transactions += 1;
        let number = self.transactions;
        let begin = format!("BEGIN; INSERT INTO canary VALUES ({number}); SAVEPOINT canary_{number}");
        sqlx::raw_sql(AssertSqlSafe(begin)).execute(&mut self.connection).await.unwrap();
    }

    /// Sends a text; whether the transaction is still the one it was sent in.
    async fn survives(&mut self, sql: &str) -> bool {
        match sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.connection).await {
            Ok(_) => self.accepted += 1,
            Err(sqlx::Error::Database(_)) => self.failed += 1,
            // A message that the driver cannot read, in an encoding that is not its own.
            Err(_) => {
                self.reopen().await;
                return true;
            }
        }
        let back = format!("ROLLBACK TO SAVEPOINT canary_{}", self.transactions);
        let same = sqlx::raw_sql(AssertSqlSafe(back)).execute(&mut self.connection).await.is_ok();
        if !same {
            sqlx::raw_sql("ROLLBACK").execute(&mut self.connection).await.unwrap();
            self.begin().await;
        }
        same
    }

    /// # Panics
    ///
    /// A text ended the transaction and is not forbidden.
    async fn judge(&mut self, texts: impl Iterator<Item = String>) -> usize {
        let mut seen = 0;
        for text in texts.filter(|text| forbidden_in_closure(text).is_none()) {
            seen += 1;
            assert!(self.survives(&text).await, "{:?}: this ended the transaction: {text}", self.settings);
        }
        seen
    }
}

/// A database with [`CONTENTS`].
async fn database() -> Option<PgConnectOptions> {
    let database = support::servers::Postgres::shared().await?;
    let options: PgConnectOptions = database.superuser_url.parse().unwrap();
    sqlx::raw_sql(CONTENTS).execute(&mut options.connect().await.unwrap()).await.unwrap();
    Some(options)
}

#[tokio::test]
async fn the_oracle_sees_a_transaction_end_and_all_that_ends_one_is_forbidden() {
    let Some(options) = database().await else { return };
    let mut session = Session::open(&options, "").await;
    for ends in [
        "COMMIT",
        "END",
        "ROLLBACK",
        "ABORT",
        "COMMIT AND CHAIN",
        "ROLLBACK AND CHAIN",
        "COMMIT; BEGIN; SELECT 1/0",
        "ROLLBACK; BEGIN",
        "SELECT 1; END",
    ] {
        assert!(!session.survives(ends).await, "nothing seen of {ends}");
        assert!(forbidden_in_closure(ends).is_some(), "{ends}");
    }
    for stays in ["SELECT 1", "SELECT 1/0", "no SQL", "SAVEPOINT a", "CALL committing()", "DO 'BEGIN ROLLBACK; END'"] {
        assert!(session.survives(stays).await, "{stays}");
        assert_eq!(forbidden_in_closure(stays), None, "{stays}");
    }
}

#[tokio::test]
async fn what_is_not_forbidden_never_ends_the_transaction() {
    let Some(options) = database().await else { return };
    let mut rng = Rng::with_seed(3);
    let mut session = Session::open(&options, "").await;
    let texts = cases(12_000);
    let mixed = session.judge((0..texts).map(|_| mix(&mut rng))).await;
    println!("mixes: {mixed} of {texts} sent, {} accepted, {} failed", session.accepted, session.failed);
    assert!(mixed * 10 > texts && session.accepted * 10 > mixed, "the generator misses its aim");
    for settings in soup::SETTINGS {
        let mut session = Session::open(&options, settings).await;
        let texts = cases(12_000) / soup::SETTINGS.len();
        let trapped = session.judge((0..texts).map(|_| trap(&mut rng))).await;
        println!("{settings:?}: {trapped} of {texts} sent, {} accepted, {} failed", session.accepted, session.failed);
        assert!(trapped * 10 > texts && session.accepted * 20 > trapped, "the soup is too thin");
    }
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM canary")
        .fetch_one(&mut options.connect().await.unwrap())
        .await
        .unwrap();
    assert_eq!(left, 0, "a transaction was committed");
}

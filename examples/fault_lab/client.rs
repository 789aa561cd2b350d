//! Those who are put to the test: this crate's pool, and those that the checker has to convict.

use std::time::Duration;

use rds_proxy_pool::{Error, Outcome, ProxyPool};
use sqlx::{AssertSqlSafe, PgPool, Postgres};

/// What each call is given.
pub(crate) const DEADLINE: Duration = Duration::from_secs(2);
/// How long somebody who repeats everything waits for one answer.
pub(crate) const ATTEMPT: Duration = Duration::from_millis(700);
/// How long he waits before he repeats it.
pub(crate) const PAUSE: Duration = Duration::from_millis(20);

/// Who makes the calls, and what they take an error for.
#[derive(Clone)]
pub(crate) enum Client {
    /// This crate's pool.
    Ours(ProxyPool),
    /// sqlx's pool, with every error taken for a failure.
    Plain(PgPool),
    /// sqlx's pool, with every failed call made again.
    Stubborn(PgPool),
    /// sqlx's pool, with the server asked what became of a transaction by the number it has there. It has none outside of
    /// one: single statements are made as [`Plain`](Self::Plain) makes them.
    Asking(PgPool),
}

/// One statement of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    Read {
        counter: i64,
    },
    Upsert {
        item: i64,
        version: i64,
    },
    Insert {
        op: i64,
    },
    Increment {
        counter: i64,
        op: i64,
    },
    /// Harmful under `idempotent()`, and run under it to show that.
    Overwrite {
        register: i64,
        op: i64,
    },
}

/// What a caller takes for the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Acknowledged,
    /// An error that says that nothing was left behind.
    NotApplied,
    Unknown,
}

/// A call that returned an error.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) class: Class,
    pub(crate) code: String,
    /// All it says.
    pub(crate) text: String,
}

impl Work {
    pub(crate) fn sql(self) -> &'static str {
        match self {
            Work::Read { .. } => "SELECT n FROM counter WHERE id = $1",
            Work::Upsert { .. } => {
                "INSERT INTO item AS t (id, version) VALUES ($1, $2) ON CONFLICT (id) \
                 DO UPDATE SET version = excluded.version WHERE excluded.version > t.version"
            }
            Work::Insert { .. } => "INSERT INTO entry (op) VALUES ($1)",
            // What is applied twice is written down twice.
            Work::Increment { .. } => {
                "WITH changed AS (UPDATE counter SET n = n + 1 WHERE id = $1 RETURNING id) \
                 INSERT INTO increment (op, counter) SELECT $2, id FROM changed"
            }
            Work::Overwrite { .. } => {
                "WITH changed AS (UPDATE register SET op = $2 WHERE id = $1 RETURNING id) \
                 INSERT INTO overwrite (op, register) SELECT $2, id FROM changed"
            }
        }
    }

    fn values(self) -> (i64, Option<i64>) {
        match self {
            Work::Read { counter } => (counter, None),
            Work::Upsert { item, version } => (item, Some(version)),
            Work::Insert { op } => (op, None),
            Work::Increment { counter, op } => (counter, Some(op)),
            Work::Overwrite { register, op } => (register, Some(op)),
        }
    }

    pub(crate) fn is_read(self) -> bool {
        matches!(self, Work::Read { .. })
    }

    pub(crate) fn is_idempotent(self) -> bool {
        matches!(self, Work::Upsert { .. } | Work::Overwrite { .. })
    }
}

impl Client {
    /// Makes the call; what was read is returned, 0 for writes. `anew` has the statement prepared for this call alone.
    pub(crate) async fn call(&self, work: Work, tag: &str, anew: bool) -> Result<i64, Failed> {
        match self {
            Client::Ours(pool) => {
                let pool = pool.by(DEADLINE);
                let pool = if work.is_idempotent() { pool.idempotent() } else { pool };
                run(&pool, work, tag, anew).await.map_err(|error| ours(&error))
            }
            Client::Plain(pool) | Client::Asking(pool) => {
                match tokio::time::timeout(DEADLINE, run(pool, work, tag, anew)).await {
                    Ok(answer) => answer.map_err(|error| failed(Class::NotApplied, &error)),
                    Err(_) => Err(timeout(Class::NotApplied)),
                }
            }
            Client::Stubborn(pool) => {
                let insisting = async {
                    loop {
                        if let Ok(Ok(answer)) = tokio::time::timeout(ATTEMPT, run(pool, work, tag, anew)).await {
                            return answer;
                        }
                        tokio::time::sleep(PAUSE).await;
                    }
                };
                let answer = tokio::time::timeout(DEADLINE, insisting).await;
                answer.map_err(|_| timeout(Class::Unknown))
            }
        }
    }

    /// Closes it, with all that it has under way.
    pub(crate) async fn close(&self) {
        match self {
            Client::Ours(pool) => drop(pool.close(DEADLINE).await),
            Client::Plain(pool) | Client::Stubborn(pool) | Client::Asking(pool) => {
                // Its goodbyes may wait for a peer that is gone.
                let _ = tokio::time::timeout(DEADLINE, pool.close()).await;
            }
        }
    }
}

async fn run<'e, E>(executor: E, work: Work, tag: &str, anew: bool) -> Result<i64, sqlx::Error>
where
    E: sqlx::Executor<'e, Database = Postgres>,
{
    let anew_text = if anew { "/* anew */ " } else { "" };
    let sql = AssertSqlSafe(format!("{} {anew_text}{tag}", work.sql()));
    let (first, second) = work.values();
    if work.is_read() {
        return sqlx::query_scalar(sql).bind(first).persistent(!anew).fetch_one(executor).await;
    }
    let query = sqlx::query(sql).bind(first).persistent(!anew);
    let query = if let Some(second) = second { query.bind(second) } else { query };
    query.execute(executor).await.map(|_| 0)
}

/// What this crate says became of a statement.
pub(crate) fn ours(error: &sqlx::Error) -> Failed {
    let Some(ours) = Error::find(error) else {
        let of_the_server = matches!(error, sqlx::Error::Database(_));
        return failed(if of_the_server { Class::NotApplied } else { Class::Unknown }, error);
    };
    let class = match ours.outcome() {
        outcome if outcome.left_nothing() => Class::NotApplied,
        Outcome::Committed => Class::Acknowledged,
        _ => Class::Unknown,
    };
    Failed { class, code: ours.code().to_owned(), text: format!("{ours:#}") }
}

pub(crate) fn failed(class: Class, error: &sqlx::Error) -> Failed {
    let code = error.as_database_error().and_then(|error| error.code());
    let code = code.map_or_else(|| "driver".to_owned(), |code| format!("sqlstate {code}"));
    Failed { class, code, text: error.to_string() }
}

pub(crate) fn timeout(class: Class) -> Failed {
    Failed { class, code: "timeout".to_owned(), text: "no answer in time".to_owned() }
}

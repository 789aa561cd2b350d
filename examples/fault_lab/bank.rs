//! The work of the transactions: money goes from one account to another, and lists grow at their ends.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rds_proxy_pool::{Error, OutcomeKey, ProxyPool};
use sqlx::{AssertSqlSafe, Connection, Executor, PgPool, Postgres};

use crate::Outcome;
use crate::aim::Aim;
use crate::client::{ATTEMPT, Class, Client, Failed, PAUSE, failed, ours, timeout};
use crate::stage::Stage;

/// What each call is given.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);
pub(crate) const MARKERS: &str = "rds_proxy_pool_outcome";
pub(crate) const ACCOUNTS: i64 = 64;
pub(crate) const LISTS: i64 = 16;
/// What every account begins with.
pub(crate) const CENTS: i64 = 1000;

const TABLES: &str = "
    CREATE TABLE account (id bigint PRIMARY KEY, cents bigint NOT NULL);
    CREATE TABLE transfer (op bigint NOT NULL, source bigint, target bigint, cents bigint, key uuid);
    CREATE TABLE list (id bigint PRIMARY KEY, length bigint NOT NULL);
    CREATE TABLE element (list bigint, position bigint, worker bigint, op bigint, key uuid);
    CREATE TABLE held (op bigint NOT NULL);
    CREATE FUNCTION wait_for_lock() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_advisory_xact_lock(NEW.op); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON held DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION wait_for_lock();";

/// What a transaction is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    Transfer {
        source: i64,
        target: i64,
        cents: i64,
    },
    /// At the end of a list; the operations of one worker stand in their order.
    Append {
        list: i64,
    },
}

/// How it is done. Single writes and once-only transactions come here, and into [`Client::transact`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// `pool.transaction(…)`.
    Closure,
    /// `pool.begin()` and `commit()`.
    ByHand,
}

/// One call: the work, whose it is, and the number it is booked under.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Op {
    pub(crate) number: i64,
    pub(crate) worker: usize,
    pub(crate) work: Work,
    pub(crate) way: Way,
}

/// What a caller was told.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) class: Class,
    pub(crate) error: Option<Failed>,
    /// How often the closure ran.
    pub(crate) runs: u32,
    /// With an unknown outcome: by what it can be found out later.
    pub(crate) key: Option<OutcomeKey>,
}

impl Op {
    pub(crate) fn any(number: i64, worker: usize, random: &mut fastrand::Rng) -> Op {
        let source = random.i64(0..ACCOUNTS);
        let target = (source + random.i64(1..ACCOUNTS)) % ACCOUNTS;
        let work = match random.bool() {
            true => Work::Transfer { source, target, cents: random.i64(1..100) },
            false => Work::Append { list: random.i64(0..LISTS) },
        };
        let way = if random.u8(..3) == 0 { Way::ByHand } else { Way::Closure };
        Op { number, worker, work, way }
    }

    /// The statements between BEGIN and COMMIT. Each row says under which marker it was written.
    async fn run<T>(&self, tx: &mut T, key: Option<OutcomeKey>, aim: &Aim<'_>) -> Result<(), sqlx::Error>
    where
        for<'c> &'c mut T: Executor<'c, Database = Postgres>,
    {
        let Op { number, worker, .. } = *self;
        let (tag, key) = (aim.tag(), key.map(|key| key.to_string()));
        // A statement that was prepared once is not prepared again.
        let (anew, kept) = if aim.is_at_a_parse() { ("/* anew */ ", false) } else { ("", true) };
        let text = |sql: &str| AssertSqlSafe(format!("{sql} {anew}{tag}"));
        match self.work {
            Work::Transfer { source, target, cents } => {
                for (account, cents) in [(source, -cents), (target, cents)] {
                    let change = text("UPDATE account SET cents = cents + $2 WHERE id = $1");
                    sqlx::query(change).persistent(kept).bind(account).bind(cents).execute(&mut *tx).await?;
                }
                let book = "INSERT INTO transfer (op, source, target, cents, key) VALUES ($1, $2, $3, $4, $5::uuid)";
                let book = sqlx::query(text(book))
                    .persistent(kept)
                    .bind(number)
                    .bind(source)
                    .bind(target)
                    .bind(cents)
                    .bind(key);
                book.execute(&mut *tx).await?;
            }
            Work::Append { list } => {
                let grow = text("UPDATE list SET length = length + 1 WHERE id = $1 RETURNING length");
                let position: i64 = sqlx::query_scalar(grow).persistent(kept).bind(list).fetch_one(&mut *tx).await?;
                let append = "INSERT INTO element (list, position, worker, op, key) VALUES ($1, $2, $3, $4, $5::uuid)";
                let append = sqlx::query(text(append)).persistent(kept).bind(list).bind(position).bind(worker as i64);
                append.bind(number).bind(key).execute(&mut *tx).await?;
            }
        }
        aim.at_the_commit(tx).await
    }
}

impl Client {
    /// Makes the call.
    pub(crate) async fn transact(&self, op: Op, aim: &Aim<'_>) -> Told {
        match (self, op.way) {
            (Client::Ours(pool), Way::Closure) => in_a_closure(pool, op, aim).await,
            (Client::Ours(pool), Way::ByHand) => by_hand(pool, op, aim).await,
            (Client::Plain(pool), _) => match tokio::time::timeout(DEADLINE, plainly(pool, op, aim)).await {
                Ok(result) => Told::of(result.map_err(|error| failed(Class::NotApplied, &error))),
                Err(_) => Told::of(Err(timeout(Class::NotApplied))),
            },
            (Client::Stubborn(pool), _) => {
                let insisting = async {
                    while !matches!(tokio::time::timeout(ATTEMPT, plainly(pool, op, aim)).await, Ok(Ok(()))) {
                        tokio::time::sleep(PAUSE).await;
                    }
                };
                let insisted = tokio::time::timeout(DEADLINE, insisting).await;
                Told::of(insisted.map_err(|_| timeout(Class::Unknown)))
            }
            (Client::Asking(pool), _) => {
                let asked = tokio::time::timeout(DEADLINE, believing_the_server(pool, op, aim)).await;
                Told::of(asked.unwrap_or_else(|_| Err(timeout(Class::Unknown))))
            }
        }
    }
}

impl Told {
    fn of(result: Result<(), Failed>) -> Told {
        let error = result.err();
        Told { class: error.as_ref().map_or(Class::Acknowledged, |error| error.class), error, runs: 1, key: None }
    }
}

async fn in_a_closure(pool: &ProxyPool, op: Op, aim: &Aim<'_>) -> Told {
    let runs = AtomicU32::new(0);
    let pool = pool.by(DEADLINE);
    let call = pool.transaction(|mut tx| {
        runs.fetch_add(1, Ordering::Relaxed);
        async move {
            let key = tx.outcome_key();
            op.run(&mut tx, key, aim).await
        }
    });
    let result: Result<(), sqlx::Error> = call.await;
    let key = result.as_ref().err().and_then(|error| Error::find(error)?.outcome_key());
    Told { key, runs: runs.into_inner(), ..Told::of(result.map_err(|error| ours(&error))) }
}

/// Whoever ends a transaction himself knows that without a COMMIT nothing of it stays.
async fn by_hand(pool: &ProxyPool, op: Op, aim: &Aim<'_>) -> Told {
    let pool = pool.by(DEADLINE);
    let mut transaction = match pool.begin().await {
        Ok(transaction) => transaction,
        Err(error) => return Told::of(Err(ours(&error.into()))),
    };
    let key = transaction.outcome_key();
    if let Err(error) = op.run(&mut transaction, key, aim).await {
        return Told::of(Err(Failed { class: Class::NotApplied, ..ours(&error) }));
    }
    match transaction.commit().await {
        Ok(()) => Told::of(Ok(())),
        Err(error) => Told { key: error.outcome_key(), ..Told::of(Err(ours(&error.into()))) },
    }
}

async fn plainly(pool: &PgPool, op: Op, aim: &Aim<'_>) -> Result<(), sqlx::Error> {
    let mut transaction = pool.begin().await?;
    op.run(&mut *transaction, None, aim).await?;
    transaction.commit().await
}

/// Asks for the number of the transaction with its BEGIN, and the server what became of it when its COMMIT has no answer.
async fn believing_the_server(pool: &PgPool, op: Op, aim: &Aim<'_>) -> Result<(), Failed> {
    let not_applied = |error: sqlx::Error| failed(Class::NotApplied, &error);
    let mut transaction = pool.begin().await.map_err(not_applied)?;
    let number = AssertSqlSafe(format!("SELECT pg_current_xact_id()::text {}", aim.tag()));
    let number: String = sqlx::query_scalar(number).fetch_one(&mut *transaction).await.map_err(not_applied)?;
    op.run(&mut *transaction, None, aim).await.map_err(not_applied)?;
    let Err(lost) = transaction.commit().await else { return Ok(()) };
    loop {
        // It may take a client any time to come back.
        tokio::time::sleep(PAUSE.mul_f64(1.0 + 10.0 * fastrand::f64())).await;
        let status = sqlx::query_scalar("SELECT pg_xact_status($1::text::xid8)").bind(&number);
        let status: Result<Option<String>, _> = status.fetch_one(pool).await;
        match status.as_ref().map(|status| status.as_deref()) {
            Ok(Some("committed")) => return Err(failed(Class::Acknowledged, &lost)),
            Ok(Some("aborted")) => return Err(failed(Class::NotApplied, &lost)),
            // Given out to nobody: so the server has not heard of it.
            Err(error) if error.as_database_error().is_some_and(|error| error.message().contains("in the future")) => {
                return Err(failed(Class::NotApplied, &lost));
            }
            _ => {}
        }
    }
}

impl Stage {
    /// The tables, the pool's own included.
    pub(crate) async fn open_the_bank(&self, pool: &ProxyPool) -> Outcome<()> {
        let markers = pool.commit_marker_table_sql().ok_or("the pool leaves no markers")?;
        let mut owner = self.owner().await?;
        sqlx::raw_sql(AssertSqlSafe(format!("{markers}; {TABLES}"))).execute(&mut owner).await?;
        Ok(owner.close().await?)
    }

    /// As on the first day.
    pub(crate) async fn open_the_books(&self) -> Outcome<()> {
        let empty = format!(
            "TRUNCATE account, transfer, list, element, held, {MARKERS};
             INSERT INTO account SELECT id, {CENTS} FROM generate_series(0, {}) AS id;
             INSERT INTO list SELECT id, 0 FROM generate_series(0, {}) AS id",
            ACCOUNTS - 1,
            LISTS - 1
        );
        let mut owner = self.owner().await?;
        sqlx::raw_sql(AssertSqlSafe(empty)).execute(&mut owner).await?;
        Ok(owner.close().await?)
    }
}

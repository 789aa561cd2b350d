//! Numbered rows, each booked once: what proves that no acknowledged write is lost and none is applied twice.

use std::collections::BTreeMap;

use rds_proxy_pool::{Outcome, ProxyPool};

/// A table without a key, so that a row written twice would be there twice.
pub(crate) struct Ledger {
    pool: ProxyPool,
    booked: BTreeMap<i64, Booking>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Booking {
    Acknowledged,
    /// An error that says nothing was left behind.
    Refused,
    Unknown,
}

/// What the ledger says in the end.
pub(crate) struct Audit {
    /// Bookings that returned an error.
    pub(crate) errors: u64,
    /// Acknowledged, and not there.
    pub(crate) lost: u64,
    /// There more than once, or there although the error said it was not.
    pub(crate) doubled: u64,
}

impl Ledger {
    pub(crate) async fn open(pool: ProxyPool) -> Result<Self, sqlx::Error> {
        sqlx::raw_sql("CREATE TABLE ledger (number bigint NOT NULL)").execute(&pool).await?;
        Ok(Ledger { pool, booked: BTreeMap::new() })
    }

    /// Books so many rows, one transaction each.
    pub(crate) async fn book(&mut self, rows: usize) {
        for _ in 0..rows {
            let number = self.booked.len() as i64;
            let booking = match self.insert(number).await {
                Ok(()) => Booking::Acknowledged,
                Err(outcome) if outcome.left_nothing() => Booking::Refused,
                Err(_) => Booking::Unknown,
            };
            self.booked.insert(number, booking);
        }
    }

    async fn insert(&self, number: i64) -> Result<(), Outcome> {
        let mut transaction = self.pool.begin().await.map_err(|error| error.outcome())?;
        let insert = sqlx::query("INSERT INTO ledger VALUES ($1)").bind(number);
        match insert.execute(&mut transaction).await {
            Ok(_) => transaction.commit().await.map_err(|error| error.outcome()),
            // Without a commit nothing stays.
            Err(_) => Err(Outcome::RolledBack),
        }
    }

    pub(crate) async fn audit(&self) -> Result<Audit, sqlx::Error> {
        let rows: Vec<(i64, i64)> =
            sqlx::query_as("SELECT number, count(*) FROM ledger GROUP BY number").fetch_all(&self.pool).await?;
        let there: BTreeMap<i64, i64> = rows.into_iter().collect();
        let mut audit = Audit { errors: 0, lost: 0, doubled: 0 };
        for (number, booking) in &self.booked {
            let times = there.get(number).copied().unwrap_or(0);
            audit.errors += u64::from(*booking != Booking::Acknowledged);
            audit.lost += u64::from(*booking == Booking::Acknowledged && times == 0);
            audit.doubled += u64::from(times > 1 || *booking == Booking::Refused && times > 0);
        }
        Ok(audit)
    }
}

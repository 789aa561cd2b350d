//! A primary and a standby that can change places any number of times.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::super::process::POLL;
use super::local::Local;
use super::template::Installation;
use super::{Failure, PATIENCE, Place, Postgres, or_skip};

/// A primary and a standby that follows it by streaming replication.
///
/// [`fail_over`](Self::fail_over) makes the standby the primary; from then on it is alone, and its commits wait for
/// nobody, until [`rebuild`](Self::rebuild) makes a standby of what the old primary has left. Both keep their ports.
#[derive(Debug)]
pub struct Pair {
    servers: [Postgres; 2],
    primary: AtomicUsize,
    replication: Replication,
}

/// Whether a commit waits for the standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replication {
    /// It does not: a failover may lose the newest commits.
    Asynchronous,
    /// It does, until the standby shows the change: nothing acknowledged is lost.
    Synchronous,
}

/// How a primary ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Its processes are killed: what the standby has not received is lost.
    Kill9,
    /// An orderly stop: the standby, if it is connected, receives everything first.
    StopFast,
}

/// What a failover has kept and lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// What the old primary wrote before this position is on the new one, and nothing after it.
    pub survived: Lsn,
    /// Where the old primary had committed what is lost. If replication is synchronous, nobody was told so.
    pub commits: Vec<Lsn>,
}

/// A position in the server's log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lsn(pub u64);

impl FromStr for Lsn {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let parts = text.trim().split_once('/');
        let parts = parts.and_then(|(high, low)| {
            Some((u64::from(u32::from_str_radix(high, 16).ok()?) << 32) + u64::from(u32::from_str_radix(low, 16).ok()?))
        });
        parts.map(Lsn).ok_or_else(|| Failure::Broken(format!("not a log position: {text}")))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 as u32)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Postgres {
    /// Starts a primary and a standby; `None` when there is no PostgreSQL to start.
    pub async fn start_pair(replication: Replication) -> Option<Pair> {
        or_skip(Self::try_start_pair(replication).await)
    }

    /// As [`start_pair`](Self::start_pair), with the reason instead of a skip.
    pub async fn try_start_pair(replication: Replication) -> Result<Pair, Failure> {
        let installation = Installation::find()?;
        let primary = Self::try_start().await?;
        let local = Local::new(installation)?;
        local.copy(primary.port()).await?;
        let port = local.start().await?;
        let standby = Self::at(port, Place::Local(local));
        let pair = Pair { servers: [primary, standby], primary: AtomicUsize::new(0), replication };
        pair.attach().await;
        Ok(pair)
    }
}

impl Pair {
    /// The one that takes writes.
    pub fn primary(&self) -> &Postgres {
        &self.servers[self.primary.load(Ordering::Acquire)]
    }

    /// The one that takes reads; after a failover the old primary, which takes nothing until it is rebuilt.
    pub fn standby(&self) -> &Postgres {
        &self.servers[1 - self.primary.load(Ordering::Acquire)]
    }

    /// Completes when the standby shows everything the primary has committed by now.
    pub async fn wait_replicated(&self) {
        let position = self.primary().position().await;
        let mut standby = self.standby().connect().await.expect("the standby accepts connections");
        let deadline = Instant::now() + PATIENCE;
        let reached = "SELECT COALESCE(pg_last_wal_replay_lsn() >= $1::pg_lsn, false)";
        loop {
            let query = sqlx::query_scalar::<_, bool>(reached).bind(position.to_string());
            if query.fetch_one(&mut standby).await.expect("the standby answers") {
                return;
            }
            assert!(Instant::now() < deadline, "the standby did not follow within {PATIENCE:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Ends the primary and promotes the standby; completes when that one takes writes.
    pub async fn fail_over(&self, ending: Ending) {
        match ending {
            Ending::Kill9 => self.primary().kill9().await,
            Ending::StopFast => self.primary().stop_fast().await,
        }
        self.standby().promote().await;
        self.primary.fetch_xor(1, Ordering::AcqRel);
    }

    /// What the last failover lost, read from what the old primary left: to be asked before it is rebuilt.
    pub async fn lost(&self) -> Lost {
        let compare = async {
            let (timeline, survived) = self.primary().local().branched_off()?;
            let commits = self.standby().local().commits_from(timeline, survived.clone()).await?;
            let commits: Result<_, Failure> = commits.iter().map(|position| position.parse()).collect();
            Ok(Lost { survived: survived.parse()?, commits: commits? })
        };
        compare.await.unwrap_or_else(|failure: Failure| panic!("{failure}"))
    }

    /// Makes a standby of what is not the primary, running or not; completes when it shows all there is and, if
    /// replication is synchronous, commits wait for it again.
    pub async fn rebuild(&self) {
        let standby = self.standby();
        standby.kill9().await;
        let copy = async {
            standby.local().copy(self.primary().port()).await?;
            standby.local().run(standby.port()).await
        };
        copy.await.unwrap_or_else(|failure: Failure| panic!("{failure}"));
        self.attach().await;
    }

    /// From now on nothing reaches the standby; completes when that is so. A synchronous commit waits from then on.
    pub async fn disconnect(&self) {
        self.standby().set("primary_conninfo", "").await;
        self.standby().wait_until("SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)").await;
    }

    async fn attach(&self) {
        self.wait_replicated().await;
        if self.replication == Replication::Synchronous {
            // Not before there is a standby, or this statement would be the last for a while.
            self.primary().set("synchronous_standby_names", "*").await;
            let synchronous = "SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'";
            self.primary().wait_until(synchronous).await;
        }
    }
}

impl Postgres {
    /// How far its log is written.
    pub async fn position(&self) -> Lsn {
        let ask = async {
            let mut connection = self.connect().await?;
            let position = sqlx::query_scalar::<_, String>("SELECT pg_current_wal_lsn()::text");
            position.fetch_one(&mut connection).await?.parse()
        };
        ask.await.unwrap_or_else(|failure: Failure| panic!("the server does not tell its position: {failure}"))
    }

    /// Changes a setting that takes effect without a restart.
    async fn set(&self, name: &str, value: &str) {
        let set = async {
            let mut connection = self.connect().await?;
            // In a message of its own: it refuses to run in a transaction.
            let sql = sqlx::AssertSqlSafe(format!("ALTER SYSTEM SET {name} = '{value}'"));
            sqlx::raw_sql(sql).execute(&mut connection).await?;
            sqlx::raw_sql("SELECT pg_reload_conf()").execute(&mut connection).await
        };
        if let Err(error) = set.await {
            panic!("{name} = {value}: {error}");
        }
    }

    fn local(&self) -> &Local {
        match &self.place {
            Place::Local(local) => local,
            _ => panic!("not a server of this machine"),
        }
    }
}

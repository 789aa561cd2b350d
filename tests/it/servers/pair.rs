//! A primary and a standby: who shows what when, and what a failover keeps.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use sqlx::PgConnection;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::servers::pair::{Ending, Lsn};
use crate::support::servers::{Pair, Postgres, Replication};

/// How many rows are acknowledged before the primary ends.
const ROWS: usize = 20;
const FAILOVERS: usize = 5;
/// Far more than any operation takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A row whose commit was acknowledged, and how far the log was written by then.
type Row = (i32, Lsn);

async fn insert(connection: &mut PgConnection, id: i32) -> Result<Row, sqlx::Error> {
    sqlx::query("INSERT INTO t VALUES ($1)").bind(id).execute(&mut *connection).await?;
    let written: String = sqlx::query_scalar("SELECT pg_current_wal_lsn()::text").fetch_one(connection).await?;
    Ok((id, written.parse().expect("a position")))
}

/// Writes rows from `first` on until the server ends, and tells how many are acknowledged.
fn writer(pair: &Pair, first: i32) -> (JoinHandle<Vec<Row>>, watch::Receiver<usize>) {
    let (count, counted) = watch::channel(0);
    let connect = pair.primary().options();
    let writing = tokio::spawn(async move {
        let mut connection = sqlx::ConnectOptions::connect(&connect).await.expect("the primary is there");
        let mut rows = Vec::new();
        while let Ok(row) = insert(&mut connection, first + rows.len() as i32).await {
            rows.push(row);
            count.send_replace(rows.len());
        }
        rows
    });
    (writing, counted)
}

async fn rows(server: &Postgres) -> BTreeSet<i32> {
    let mut connection = server.connect().await.expect("the server is there");
    let ids = sqlx::query_scalar("SELECT id FROM t").fetch_all(&mut connection).await;
    ids.expect("the table is there").into_iter().collect()
}

/// Runs it and prints how long it took.
async fn timed<F: Future<Output: Debug>>(what: &str, operation: F) -> F::Output {
    let before = Instant::now();
    let output = tokio::time::timeout(PATIENCE, operation).await.expect("it takes less than a minute");
    println!("{what}: {:?}", before.elapsed());
    output
}

#[tokio::test]
async fn a_synchronous_standby_shows_a_row_when_its_commit_returns() {
    let Some(pair) = Postgres::start_pair(Replication::Synchronous).await else { return };
    pair.primary().execute("CREATE TABLE t (id int)").await;
    let mut primary = pair.primary().connect().await.expect("the primary accepts connections");
    for id in 0..5 {
        insert(&mut primary, id).await.expect("the primary takes writes");
        assert_eq!(rows(pair.standby()).await, (0..=id).collect());
    }
}

#[tokio::test]
async fn a_standby_refuses_writes_until_it_is_promoted() {
    let Some(pair) = Postgres::start_pair(Replication::Asynchronous).await else { return };
    pair.primary().execute("CREATE TABLE t (id int)").await;
    pair.wait_replicated().await;
    let mut standby = pair.standby().connect().await.expect("the standby accepts connections");
    insert(&mut standby, 1).await.expect_err("a standby cannot write");
    pair.fail_over(Ending::Kill9).await;
    insert(&mut standby, 1).await.expect("a primary can write");
    assert!(pair.standby().connect().await.is_err(), "the old primary is gone");
}

async fn five_failovers_under_writes(ending: Ending) {
    let Some(pair) = timed("start", Postgres::start_pair(Replication::Synchronous)).await else { return };
    pair.primary().execute("CREATE TABLE t (id int PRIMARY KEY)").await;
    let ports = [pair.primary().port(), pair.standby().port()];
    let mut acknowledged = BTreeSet::new();
    for turn in 0..FAILOVERS {
        assert_eq!([pair.primary().port(), pair.standby().port()], [ports[turn % 2], ports[(turn + 1) % 2]]);
        let (writing, mut counted) = writer(&pair, (turn * 1_000_000) as i32);
        timed(&format!("{ROWS} commits"), counted.wait_for(|rows| *rows >= ROWS)).await.expect("the writer writes");
        timed(&format!("fail over, {ending:?}"), pair.fail_over(ending)).await;
        acknowledged.extend(writing.await.expect("the writer ends with the server").into_iter().map(|(id, _)| id));
        let lost = timed("compare", pair.lost()).await;
        let kept = rows(pair.primary()).await;
        let missing: Vec<_> = acknowledged.difference(&kept).collect();
        assert!(missing.is_empty(), "{missing:?} were acknowledged and are lost: {lost:?}");
        timed("first commit alone", pair.primary().execute("CREATE TABLE IF NOT EXISTS alone ()")).await;
        timed("rebuild", pair.rebuild()).await;
        assert_eq!(rows(pair.standby()).await, kept, "the standby shows what the primary has");
    }
    assert!(acknowledged.len() >= FAILOVERS * ROWS);
}

#[tokio::test]
async fn no_acknowledged_row_is_lost_in_five_synchronous_failovers_by_kill_9() {
    five_failovers_under_writes(Ending::Kill9).await;
}

#[tokio::test]
async fn no_acknowledged_row_is_lost_in_five_synchronous_failovers_by_fast_stop() {
    five_failovers_under_writes(Ending::StopFast).await;
}

#[tokio::test]
async fn what_an_asynchronous_standby_had_not_received_is_lost_and_the_pair_says_which_commits() {
    let Some(pair) = Postgres::start_pair(Replication::Asynchronous).await else { return };
    pair.primary().execute("CREATE TABLE t (id int PRIMARY KEY)").await;
    for (turn, ending) in [Ending::Kill9, Ending::StopFast].into_iter().enumerate() {
        let mut primary = pair.primary().connect().await.expect("the primary accepts connections");
        let first = turn as i32 * 10;
        let mut acknowledged = Vec::new();
        for id in first..first + 6 {
            if id == first + 2 {
                pair.wait_replicated().await;
                timed("disconnect", pair.disconnect()).await;
            }
            acknowledged.push(insert(&mut primary, id).await.expect("an asynchronous commit waits for nobody"));
        }
        timed(&format!("fail over, {ending:?}"), pair.fail_over(ending)).await;
        let lost = timed("compare", pair.lost()).await;
        let kept = rows(pair.primary()).await;
        println!("survived up to {}, lost commits: {:?}", lost.survived, lost.commits);

        let (survivors, missing) = acknowledged.split_at(2);
        for (id, written) in survivors {
            assert!(kept.contains(id) && *written <= lost.survived, "row {id} at {written}: {lost:?}");
        }
        assert_eq!(lost.commits.len(), missing.len(), "{lost:?}");
        let mut before = lost.survived;
        for ((id, written), commit) in missing.iter().zip(&lost.commits) {
            assert!(!kept.contains(id), "row {id} is there");
            assert!(before <= *commit && commit < written, "row {id} at {written}: {lost:?}");
            before = *written;
        }
        timed("rebuild", pair.rebuild()).await;
        assert_eq!(rows(pair.standby()).await, kept, "what was lost is gone from the old primary too");
    }
}

#[tokio::test]
async fn a_connected_standby_has_everything_when_the_primary_stops_fast() {
    let Some(pair) = Postgres::start_pair(Replication::Asynchronous).await else { return };
    pair.primary().execute("CREATE TABLE t (id int PRIMARY KEY)").await;
    let (writing, mut counted) = writer(&pair, 0);
    counted.wait_for(|rows| *rows >= ROWS).await.expect("the writer writes");
    pair.fail_over(Ending::StopFast).await;
    assert_eq!(pair.lost().await.commits, []);
    let kept = rows(pair.primary()).await;
    for (id, _) in writing.await.expect("the writer ends with the server") {
        assert!(kept.contains(&id), "row {id}");
    }
}

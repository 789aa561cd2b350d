//! What a primary and its standby do together.

use std::time::Instant;

use super::super::process::POLL;
use super::{PATIENCE, Pair};

impl Pair {
    /// Completes when the standby shows everything the primary has committed by now.
    pub async fn wait_replicated(&self) {
        let position = async {
            let mut primary = self.primary.connect().await?;
            sqlx::query_scalar::<_, String>("SELECT pg_current_wal_lsn()::text").fetch_one(&mut primary).await
        };
        let position = position.await.expect("the primary knows its position");
        let mut standby = self.standby.connect().await.expect("the standby accepts connections");
        let deadline = Instant::now() + PATIENCE;
        let reached = "SELECT COALESCE(pg_last_wal_replay_lsn() >= $1::pg_lsn, false)";
        loop {
            let query = sqlx::query_scalar::<_, bool>(reached).bind(&position);
            if query.fetch_one(&mut standby).await.expect("the standby answers") {
                return;
            }
            assert!(Instant::now() < deadline, "the standby did not follow within {PATIENCE:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Kills the primary and promotes the standby.
    pub async fn fail_over(&self) {
        self.primary.kill9().await;
        self.standby.promote().await;
    }
}

//! Single writes whose outcome is found out when their answer is lost.

use sqlx_core::error::Error as SqlxError;

use super::Attempts;
use crate::engine::{Answer, Call, Engine};
use crate::error::{Error, ErrorKind};
use crate::outcome::{Outcome, Phase};
use crate::pool::{Pool, markers_off};
use crate::transaction::Unheard;

impl<DB: Engine> Pool<DB> {
    /// Whether the text is a write through a handle that finds out about its writes.
    pub(super) fn is_to_resolve(&self, sql: &str) -> bool {
        self.is_resolved() && !self.cannot_write(sql)
    }

    /// Sends a write until it is known to be done, as long as the attempts before are known not to be.
    pub(super) async fn call_resolved<T>(
        &self,
        mut call: Call<DB>,
        send: impl for<'c> Fn(&'c mut DB::Connection, Call<DB>) -> Answer<'c, T>,
    ) -> Result<T, SqlxError> {
        let table = self.marker_table().ok_or_else(|| markers_off().phase_of(Phase::Statement))?;
        let access = self.config().access();
        let mut attempts = Attempts { resolves: true, ..Attempts::new(self) };
        loop {
            let key = self.draw_key()?;
            let Some(marked) = DB::with_marker(&mut call, table, key) else {
                return self.in_transaction(call, send).await;
            };
            let mut connection = attempts.connection(Some(call.text())).await?;
            let bounds = self.leaving_time_to_ask(&attempts.budget);
            let unheard = Unheard::new(Some(key));
            let judge = |error: &SqlxError| DB::judge_marked(error, access, table);
            let result = connection.judged(bounds, marked, judge, &send).await;
            drop(connection);
            let failure = match result {
                Ok(answer) => {
                    unheard.heard();
                    return Ok(answer);
                }
                Err(failure) => failure,
            };
            let found = match failure.verdict().outcome {
                Outcome::Unknown => Some(self.find_out(key, &attempts.budget).await),
                _ => None,
            };
            unheard.heard();
            let failure = match found {
                None => failure,
                Some(Ok(resolved)) => failure.found(resolved),
                Some(Err(unresolved)) => {
                    let finish = |error: Error| {
                        let error = error.key_of(Some(key)).hint_of(unresolved.to_string());
                        self.effort(error, &attempts.budget, attempts.made)
                    };
                    return Err(failure.into_sqlx(finish));
                }
            };
            if let Some(error) = attempts.again(failure, Some(call.text())).await {
                return Err(error);
            }
        }
    }

    /// The same for what cannot leave a marker by itself. The answer has come before the commit, so that it is not lost with
    /// the answer to that.
    async fn in_transaction<T>(
        &self,
        mut call: Call<DB>,
        send: impl for<'c> Fn(&'c mut DB::Connection, Call<DB>) -> Answer<'c, T>,
    ) -> Result<T, SqlxError> {
        let rule = DB::forbidden_in_closure(call.text()).or_else(|| DB::unfit_for_transaction(call.text()));
        if let Some(rule) = rule {
            let message = format!("what became of it could not be found out: {rule}");
            let error = Error::new(ErrorKind::Usage, "resolved.statement", message).phase_of(Phase::Statement);
            return Err(error
                .hint_of("send one statement that a transaction can hold, or send it without resolved()")
                .into());
        }
        let send = &send;
        self.transaction(|mut tx| {
            let call = call.attempt();
            async move { tx.transaction().admit(call.text()).await?.once(call, send).await }
        })
        .await
    }
}

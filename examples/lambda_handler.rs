//! The file to copy: a Lambda function that asks its database for the time.
//!
//! Set `RDS_PROXY_ENDPOINT`, `DB_USER` and `DB_NAME`; the function's role needs `rds-db:connect`. The example `quickstart`
//! runs this very program behind a local RDS Proxy.

use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use rds_proxy_pool::ProxyPool;
use serde_json::{Value, json};

async fn handler(event: LambdaEvent<Value>) -> Result<Value, Error> {
    let pool = ProxyPool::get().await?.by(event.context.deadline());
    let now: String = sqlx::query_scalar("SELECT NOW()::text AS current_time").fetch_one(&pool).await?;
    Ok(json!({ "current_time": now }))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    run(service_fn(handler)).await
}

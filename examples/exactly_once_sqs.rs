//! A Lambda function for an SQS queue: each message takes effect once, however often it is delivered.
//!
//! SQS delivers a message again when the function failed, when its answer was lost, and now and then for no reason. Each
//! record is a transaction of its own, with the message's id as its key; what fails is reported by itself, so that the rest
//! of the batch is done with.
//!
//! Set the variables that `lambda_handler` needs, turn on `ReportBatchItemFailures` for the queue, make the table with the
//! statement of `ProxyPool::once_table_sql`, and run `ProxyPool::purge_once` once a day with more than the queue's
//! retention. In a FIFO queue what comes after a failure has to be reported as failed too.

use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use rds_proxy_pool::{OnceKey, ProxyPool};
use serde_json::{Value, json};

async fn handler(event: LambdaEvent<Value>) -> Result<Value, Error> {
    let pool = ProxyPool::get().await?.by(event.context.deadline());
    let mut failures = Vec::new();
    for record in event.payload["Records"].as_array().ok_or("no event of SQS")? {
        let id = record["messageId"].as_str().ok_or("a record without messageId")?;
        match book(&pool, id, record["body"].as_str().unwrap_or_default()).await {
            Ok(order) => println!("{id} is order {order}"),
            Err(error) => {
                eprintln!("{id}: {error}");
                failures.push(json!({ "itemIdentifier": id }));
            }
        }
    }
    Ok(json!({ "batchItemFailures": failures }))
}

/// Takes the item out of the stock and answers the number of the order, the same for each delivery of the message.
async fn book(pool: &ProxyPool, message_id: &str, item: &str) -> Result<i64, sqlx::Error> {
    let key = OnceKey::sqs_message("book-order", message_id).payload(item.as_bytes());
    pool.transaction_once(key, |mut tx| async move {
        sqlx::query("UPDATE stock SET held = held - 1 WHERE item = $1").bind(item).execute(&mut tx).await?;
        sqlx::query_scalar("INSERT INTO ordered (item) VALUES ($1) RETURNING id").bind(item).fetch_one(&mut tx).await
    })
    .await
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    run(service_fn(handler)).await
}

use std::collections::BTreeMap;
use std::time::Duration;

use rds_proxy_pool::ProxyPool;
use rds_proxy_pool::emulator::{Fault, Kind, Message, Point};
use serde_json::{Value, json};

use crate::support::lambda::LambdaFunction;
use crate::support::lambda::example::build_example;
use crate::support::world::World;

fn batch(records: &[(&str, &str)]) -> Value {
    let record = |(id, body): &(&str, &str)| json!({ "messageId": id, "body": body, "eventSource": "aws:sqs" });
    json!({ "Records": records.iter().map(record).collect::<Vec<_>>() })
}

async fn ordered(pool: &ProxyPool) -> BTreeMap<String, i64> {
    let count = "SELECT item, count(*) FROM ordered GROUP BY item";
    sqlx::query_as::<_, (String, i64)>(count).fetch_all(pool).await.unwrap().into_iter().collect()
}

async fn held(pool: &ProxyPool) -> Vec<(String, i32)> {
    sqlx::query_as("SELECT item, held FROM stock ORDER BY item").fetch_all(pool).await.unwrap()
}

#[tokio::test]
async fn a_redelivered_batch_takes_effect_once_and_only_what_failed_is_reported() {
    let Some(world) = World::start().await else { return };
    let handler = tokio::task::spawn_blocking(|| build_example("exactly_once_sqs").map_err(|error| error.to_string()));
    let handler = handler.await.unwrap().unwrap();
    let pool = world.pool();
    sqlx::raw_sql(sqlx::AssertSqlSafe(pool.once_table_sql())).execute(&pool).await.unwrap();
    let tables = "CREATE TABLE stock (item text PRIMARY KEY, held int NOT NULL CHECK (held >= 0)); \
                  CREATE TABLE ordered (id bigint GENERATED ALWAYS AS IDENTITY, item text NOT NULL REFERENCES stock); \
                  INSERT INTO stock VALUES ('pen', 10), ('book', 0)";
    sqlx::raw_sql(tables).execute(&pool).await.unwrap();

    let authority = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(authority.path(), world.ca_pem()).unwrap();
    let (key, secret, session) = World::keys();
    let config = world.config().build().unwrap();
    let mut function = LambdaFunction::builder(handler)
        .timeout(Duration::from_secs(30))
        .env("RDS_PROXY_ENDPOINT", format!("localhost:{}", world.port()))
        .env("DB_USER", config.user())
        .env("DB_NAME", config.database())
        .env("DB_CA_FILE", authority.path().to_str().unwrap())
        .env("AWS_ACCESS_KEY_ID", key)
        .env("AWS_SECRET_ACCESS_KEY", secret)
        .env("AWS_SESSION_TOKEN", session.unwrap_or_default())
        .idle();
    let records = [("m1", "pen"), ("m2", "book"), ("m3", "pen")];

    // The connection is lost while the server commits the first record; the book is sold out.
    drop(world.proxy().inject(Fault::new(Message::Commit, Point::BeforeReply, Kind::Reset)));
    let first = function.invoke(batch(&records)).await.unwrap();
    assert_eq!(first.value().unwrap(), &json!({ "batchItemFailures": [{ "itemIdentifier": "m2" }] }));
    assert_eq!(ordered(&pool).await, BTreeMap::from([("pen".to_owned(), 2)]));

    // Its answer never arrives: everything is delivered again, to another environment.
    function.recycle();
    sqlx::raw_sql("UPDATE stock SET held = 1 WHERE item = 'book'").execute(&pool).await.unwrap();
    for _ in 0..2 {
        let again = function.invoke(batch(&records)).await.unwrap();
        assert_eq!(again.value().unwrap(), &json!({ "batchItemFailures": [] }), "{}", function.logs());
        assert_eq!(ordered(&pool).await, BTreeMap::from([("book".to_owned(), 1), ("pen".to_owned(), 2)]));
    }
    assert_eq!(held(&pool).await, [("book".to_owned(), 0), ("pen".to_owned(), 8)]);
    function.recycle();
    assert_eq!(function.logs().matches("m1 is order 1\n").count(), 3, "{}", function.logs());
}

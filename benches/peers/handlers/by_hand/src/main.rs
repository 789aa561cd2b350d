//! What the AWS examples do for a handler with a database behind RDS Proxy: the SDK's configuration, a token signed by
//! hand, and a pool of sqlx's own. It answers what the example `lambda_handler` of the crate answers.
//!
//! The pool is made once per container; the examples that make one per invocation are no faster to start.

mod token;

use std::env;

use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::provider::ProvideCredentials;
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let config = aws_config::load_defaults(BehaviorVersion::latest()).await;
    let pool = connect(&config).await?;
    run(service_fn(async |event: LambdaEvent<Value>| handler(&pool, event).await)).await
}

async fn handler(pool: &PgPool, _event: LambdaEvent<Value>) -> Result<Value, Error> {
    let now: String = sqlx::query_scalar("SELECT NOW()::text AS current_time").fetch_one(pool).await?;
    Ok(json!({ "current_time": now }))
}

async fn connect(config: &SdkConfig) -> Result<PgPool, Error> {
    let (host, port) = (env::var("DB_HOST")?, env::var("DB_PORT")?.parse()?);
    let user = env::var("DB_USER")?;
    let provider = config.credentials_provider().ok_or("no credentials")?;
    let region = config.region().ok_or("no region")?.as_ref();
    let token = token::token(provider.provide_credentials().await?, region, &host, port, &user)?;
    let options = PgConnectOptions::new_without_pgpass()
        .host(&host)
        .port(port)
        .username(&user)
        .password(&token)
        .database(&env::var("DB_NAME")?)
        .ssl_mode(PgSslMode::VerifyFull)
        .ssl_root_cert(env::var("DB_CA_FILE")?);
    Ok(PgPoolOptions::new().connect_with(options).await?)
}

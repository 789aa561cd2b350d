//! sqlx's entry points through the pool, a connection and a transaction.

use futures::TryStreamExt;
use rds_proxy_pool::{Error, ErrorKind, Outcome, ProxyPool};
use sqlx::{Executor, Postgres, Row, SqlSafeStr, Statement};

use crate::support::world::World;

#[derive(Debug, PartialEq, sqlx::FromRow)]
struct Item {
    id: i32,
    name: String,
}

/// Every way in, on anything that is an executor.
macro_rules! every_entry_point {
    ($executor:expr) => {{
        let items: Vec<Item> = sqlx::query_as("SELECT id, name FROM items WHERE id <= $1 ORDER BY id")
            .bind(2)
            .fetch_all($executor)
            .await
            .unwrap();
        assert_eq!(items.iter().map(|item| item.id).collect::<Vec<_>>(), [1, 2]);

        let name: String =
            sqlx::query_scalar("SELECT name FROM items WHERE id = $1").bind(1).fetch_one($executor).await.unwrap();
        assert_eq!(name, "one");

        let nobody =
            sqlx::query("SELECT id FROM items WHERE id = $1").bind(99).fetch_optional($executor).await.unwrap();
        assert!(nobody.is_none());

        let missing = sqlx::query("SELECT id FROM items WHERE id = $1").bind(99).fetch_one($executor).await;
        assert!(matches!(missing, Err(sqlx::Error::RowNotFound)));

        let changed =
            sqlx::query("UPDATE items SET name = name WHERE id <= $1").bind(2).execute($executor).await.unwrap();
        assert_eq!(changed.rows_affected(), 2);

        let streamed: Vec<i32> = sqlx::query("SELECT id FROM items ORDER BY id")
            .fetch($executor)
            .map_ok(|row| row.get::<i32, _>("id"))
            .try_collect()
            .await
            .unwrap();
        assert_eq!(streamed, [1, 2, 3]);

        let checked = sqlx::query!("SELECT id, name FROM items WHERE id = $1", 3).fetch_one($executor).await.unwrap();
        assert_eq!((checked.id, checked.name.as_str()), (3, "three"));
        let counted = sqlx::query_scalar!("SELECT count(*) FROM items").fetch_one($executor).await.unwrap();
        assert_eq!(counted, Some(3));

        let several: Vec<_> = sqlx::raw_sql("SELECT 1 AS n; SELECT 2 AS n")
            .fetch($executor)
            .map_ok(|row| row.get::<i32, _>(0))
            .try_collect()
            .await
            .unwrap();
        assert_eq!(several, [1, 2]);

        let statement = $executor.prepare("SELECT $1::int4 + 1".into_sql_str()).await.unwrap();
        let row = statement.query().bind(1).fetch_one($executor).await.unwrap();
        assert_eq!(row.get::<i32, _>(0), 2);

        let description = $executor.describe("SELECT id, name FROM items".into_sql_str()).await.unwrap();
        assert_eq!(description.columns().len(), 2);
    }};
}

async fn world_with_items() -> Option<(World, ProxyPool)> {
    let world = World::start().await?;
    let pool = world.pool();
    let items = "CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL); \
                 INSERT INTO items VALUES (1, 'one'), (2, 'two'), (3, 'three')";
    sqlx::raw_sql(items).execute(&pool).await.unwrap();
    Some((world, pool))
}

#[tokio::test]
async fn every_entry_point_works_on_the_pool() {
    let Some((_world, pool)) = world_with_items().await else { return };
    every_entry_point!(&pool);
    let handle = pool.by(std::time::Duration::from_secs(60)).idempotent();
    every_entry_point!(&handle);
    assert_eq!(pool.status().connects, 1);
}

#[tokio::test]
async fn every_entry_point_works_on_a_connection() {
    let Some((_world, pool)) = world_with_items().await else { return };
    let mut connection = pool.acquire().await.unwrap();
    every_entry_point!(&mut connection);
    drop(connection);
    assert_eq!(pool.status().idle, 1, "nothing of it made the connection unfit");
}

#[tokio::test]
async fn every_entry_point_works_in_a_transaction() {
    let Some((_world, pool)) = world_with_items().await else { return };
    let mut transaction = pool.begin().await.unwrap();
    every_entry_point!(&mut transaction);
    transaction.commit().await.unwrap();
    assert_eq!(pool.status().idle, 1);
}

#[tokio::test]
async fn the_servers_errors_for_a_statement_pass_through_unchanged() {
    let Some((_world, pool)) = world_with_items().await else { return };
    let insert = || sqlx::query("INSERT INTO items VALUES ($1, 'again')").bind(1);
    let mut connection = pool.acquire().await.unwrap();
    for error in [insert().execute(&pool).await.unwrap_err(), insert().execute(&mut connection).await.unwrap_err()] {
        let database = error.as_database_error().expect("a database error");
        assert!(database.is_unique_violation());
        assert_eq!(database.constraint(), Some("items_pkey"));
        assert!(
            database.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().is_some(),
            "it is the driver's own type"
        );
        assert!(Error::find(&error).is_none());
    }
    drop(connection);
    assert_eq!(pool.status().open, 1, "an error of the statement costs no connection");
}

#[tokio::test]
async fn an_argument_that_cannot_be_encoded_is_the_callers_error() {
    struct Stubborn;
    impl sqlx::Type<Postgres> for Stubborn {
        fn type_info() -> sqlx::postgres::PgTypeInfo {
            <i32 as sqlx::Type<Postgres>>::type_info()
        }
    }
    impl sqlx::Encode<'_, Postgres> for Stubborn {
        fn encode_by_ref(
            &self,
            _: &mut sqlx::postgres::PgArgumentBuffer,
        ) -> Result<sqlx::encode::IsNull, sqlx::error::BoxDynError> {
            Err("will not".into())
        }
    }
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    let error = sqlx::query("SELECT $1").bind(Stubborn).execute(&pool).await.unwrap_err();
    assert!(matches!(&error, sqlx::Error::Encode(cause) if cause.to_string().contains("will not")), "{error:?}");
    assert_eq!(pool.status().idle, 1);
}

#[tokio::test]
async fn arguments_that_the_driver_cannot_send_are_the_callers_error() {
    struct Unheard;
    impl sqlx::Type<Postgres> for Unheard {
        fn type_info() -> sqlx::postgres::PgTypeInfo {
            sqlx::postgres::PgTypeInfo::with_name("unheard")
        }
    }
    impl sqlx::Encode<'_, Postgres> for Unheard {
        fn encode_by_ref(
            &self,
            _: &mut sqlx::postgres::PgArgumentBuffer,
        ) -> Result<sqlx::encode::IsNull, sqlx::error::BoxDynError> {
            Ok(sqlx::encode::IsNull::No)
        }
    }
    let Some((_world, pool)) = world_with_items().await else { return };
    let delete = || sqlx::query("DELETE FROM items WHERE name = $1");
    let error = delete().bind(Unheard).execute(&pool).await.unwrap_err();
    assert!(matches!(&error, sqlx::Error::TypeNotFound { type_name } if type_name == "unheard"), "{error:?}");
    let many = (0..70_000).fold(delete(), |delete, n| delete.bind(n));
    let error = many.execute(&pool).await.unwrap_err();
    assert!(matches!(&error, sqlx::Error::Protocol(text) if text.contains("70000")), "{error:?}");
    let status = pool.status();
    assert_eq!((status.connects, status.idle), (1, 1), "neither costs the connection");
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM items").fetch_one(&pool).await.unwrap();
    assert_eq!(left, 3);
}

#[tokio::test]
async fn our_errors_are_found_inside_sqlx_errors() {
    let Some(world) = World::start().await else { return };
    world.refuse_connections(true).await;
    let pool = world.pool().by(std::time::Duration::from_millis(900));
    let error = sqlx::query("SELECT 1").execute(&pool).await.unwrap_err();
    let ours = Error::find(&error).expect("ours");
    assert_eq!((ours.kind(), ours.outcome()), (ErrorKind::Deadline, Outcome::NotSent));
    assert!(ours.attempts() > 1, "{ours:#}");
    assert!(std::error::Error::source(ours).is_some(), "the last cause is kept: {ours:#}");
}

#[tokio::test]
async fn a_refused_login_keeps_the_servers_code_through_sqlx() {
    let Some(world) = World::start().await else { return };
    let config = world.config().credentials_provider(World::wrong_credentials()).build().unwrap();
    let error = sqlx::query("SELECT 1").execute(&ProxyPool::new(config).unwrap()).await.unwrap_err();
    let ours = Error::find(&error).expect("ours");
    assert_eq!((ours.kind(), ours.code()), (ErrorKind::Auth, "auth.refused"));
    assert!(ours.hint().unwrap().contains("rds-db:connect"), "{ours:#}");
    assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("28P01"));
}

#[tokio::test]
async fn commit_of_an_aborted_transaction_is_an_error() {
    let Some((_world, pool)) = world_with_items().await else { return };
    let mut transaction = pool.begin().await.unwrap();
    sqlx::query("INSERT INTO items VALUES (4, 'four')").execute(&mut transaction).await.unwrap();
    sqlx::query("SELECT 1 / 0").execute(&mut transaction).await.unwrap_err();
    let error = transaction.commit().await.unwrap_err();
    assert_eq!((error.code(), error.outcome()), ("commit.aborted", Outcome::RolledBack));
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM items").fetch_one(&pool).await.unwrap();
    assert_eq!(count, 3);
}

#[tokio::test]
async fn a_deferred_constraint_refuses_the_commit_and_keeps_the_connection() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    sqlx::raw_sql("CREATE TABLE once (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)").execute(&pool).await.unwrap();
    let mut transaction = pool.begin().await.unwrap();
    sqlx::query("INSERT INTO once VALUES (1), (1)").execute(&mut transaction).await.unwrap();
    let error = transaction.commit().await.unwrap_err();
    assert_eq!((error.code(), error.outcome()), ("commit.refused", Outcome::RolledBack));
    assert!(sqlx::Error::from(error).as_database_error().unwrap().is_unique_violation());
    assert_eq!(pool.status().idle, 1);
}

#[tokio::test]
async fn a_row_returned_before_a_failing_commit_is_no_success() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    sqlx::raw_sql("CREATE TABLE once (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)").execute(&pool).await.unwrap();
    let insert = sqlx::query("INSERT INTO once VALUES (1), (1) RETURNING n");
    let error = insert.fetch_one(&pool).await.unwrap_err();
    assert!(error.as_database_error().unwrap().is_unique_violation(), "{error:?}");
}

#[tokio::test]
async fn a_transaction_dropped_without_an_end_is_undone_at_once() {
    let Some((_world, pool)) = world_with_items().await else { return };
    let mut transaction = pool.begin().await.unwrap();
    sqlx::query("DELETE FROM items").execute(&mut transaction).await.unwrap();
    drop(transaction);
    assert_eq!(pool.status().open, 0);
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM items").fetch_one(&pool).await.unwrap();
    assert_eq!(count, 3);

    let mut transaction = pool.begin().await.unwrap();
    sqlx::query("DELETE FROM items").execute(&mut transaction).await.unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!(pool.status().open, 1, "an explicit rollback keeps the connection");
}

#[tokio::test]
async fn a_pool_for_a_reader_endpoint_opens_read_only_transactions() {
    let Some((world, _pool)) = world_with_items().await else { return };
    let config = world.config().access(rds_proxy_pool::Access::ReadOnly).build().unwrap();
    let reader = ProxyPool::new(config).unwrap();
    let mut transaction = reader.begin().await.unwrap();
    let error = sqlx::query("DELETE FROM items").execute(&mut transaction).await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("25006"));
}

#[tokio::test]
async fn a_transaction_ended_by_a_statement_is_not_reported_as_committed() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    sqlx::raw_sql("CREATE TABLE written (n int)").execute(&pool).await.unwrap();
    for end in ["ROLLBACK", "/* note */ abort", "COMMIT"] {
        let mut transaction = pool.begin().await.unwrap();
        sqlx::raw_sql("INSERT INTO written VALUES (1)").execute(&mut transaction).await.unwrap();
        sqlx::raw_sql(end).execute(&mut transaction).await.unwrap();
        let error = transaction.commit().await.unwrap_err();
        assert_eq!((error.code(), error.outcome()), ("commit.ended", Outcome::Unknown), "{end}: {error:#}");
        let mut next = pool.begin().await.unwrap();
        sqlx::raw_sql("SAVEPOINT a; ROLLBACK TO a").execute(&mut next).await.unwrap();
        next.commit().await.unwrap();
    }
    let rows = || sqlx::query_scalar::<_, i64>("SELECT count(*) FROM written").fetch_one(&pool);
    assert_eq!(rows().await.unwrap(), 1, "the one that ended with COMMIT");
    // Where it is one of several statements, where the end was refused, and where nobody waited for its answer.
    for end in ["SAVEPOINT a; ROLLBACK", "INSERT INTO written VALUES (2); /* ; */ END", "ROLLBACK -- all; of it"] {
        let mut transaction = pool.begin().await.unwrap();
        sqlx::raw_sql(end).execute(&mut transaction).await.unwrap();
        sqlx::raw_sql("SELECT 1; SELECT 'the word end ; alone ends nothing'").execute(&mut transaction).await.unwrap();
        let error = transaction.commit().await.unwrap_err();
        assert_eq!((error.code(), error.outcome()), ("commit.ended", Outcome::Unknown), "{end}: {error:#}");
    }
    let mut transaction = pool.begin().await.unwrap();
    let words = "INSERT INTO written VALUES (3); SELECT 'commit; rollback', CASE WHEN true THEN 1 END";
    sqlx::raw_sql(words).execute(&mut transaction).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(rows().await.unwrap(), 3);

    sqlx::raw_sql("CREATE TABLE once (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)").execute(&pool).await.unwrap();
    let mut transaction = pool.begin().await.unwrap();
    sqlx::raw_sql("INSERT INTO once VALUES (1), (1)").execute(&mut transaction).await.unwrap();
    sqlx::raw_sql("COMMIT").execute(&mut transaction).await.unwrap_err();
    let error = transaction.commit().await.expect_err("nothing of it is there");
    assert_eq!((error.code(), error.outcome()), ("commit.ended", Outcome::Unknown));

    let mut transaction = pool.begin().await.unwrap();
    sqlx::raw_sql("INSERT INTO written VALUES (4)").execute(&mut transaction).await.unwrap();
    drop(futures::poll!(std::pin::pin!(sqlx::raw_sql("ROLLBACK").execute(&mut transaction))));
    let error = transaction.commit().await.expect_err("nothing of it is there");
    assert_eq!((error.code(), error.outcome()), ("commit.ended", Outcome::Unknown));
    assert_eq!(rows().await.unwrap(), 3);
}

#[tokio::test]
async fn a_statement_undone_for_the_sake_of_another_is_sent_again_and_another_s_error_is_not() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    // A sequence keeps what it has given out, whatever is undone.
    let tables = "CREATE TABLE done (n int); CREATE SEQUENCE tried; CREATE FUNCTION attempt(code text) RETURNS int \
                  LANGUAGE plpgsql AS $$ BEGIN IF nextval('tried') % 2 = 1 THEN RAISE EXCEPTION 'once' USING ERRCODE \
                  = code; END IF; RETURN 1; END $$";
    sqlx::raw_sql(tables).execute(&pool).await.unwrap();
    let insert = |code: &'static str| sqlx::query("INSERT INTO done SELECT attempt($1)").bind(code).execute(&pool);
    for code in ["40001", "40P01"] {
        assert_eq!(insert(code).await.unwrap().rows_affected(), 1, "{code}");
    }
    insert("55P03").await.unwrap_err();
    let (done, tried): (i64, i64) =
        sqlx::query_as("SELECT (SELECT count(*) FROM done), last_value FROM tried").fetch_one(&pool).await.unwrap();
    assert_eq!((done, tried), (2, 5));
}

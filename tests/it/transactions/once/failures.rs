use super::*;

#[tokio::test]
async fn what_fails_leaves_no_key_and_runs_again_when_it_is_delivered_again() {
    let Some(world) = World::start().await else { return };
    let pool = with_tables(world.pool()).await;
    let refused = pool
        .transaction_once(key("a"), |mut tx| async move {
            sqlx::query(INSERT).bind(1_i64).execute(&mut tx).await?;
            Err::<i64, _>(sqlx::Error::ColumnNotFound("mine".into()))
        })
        .await;
    assert!(matches!(refused, Err(sqlx::Error::ColumnNotFound(name)) if name == "mine"));

    let swallowed = pool
        .transaction_once(key("a"), |mut tx| async move {
            sqlx::query(INSERT).bind(2_i64).execute(&mut tx).await?;
            let _ = sqlx::query("SELECT 1 / 0").execute(&mut tx).await;
            Ok::<i64, sqlx::Error>(2)
        })
        .await
        .unwrap_err();
    assert_eq!((ours(&swallowed).code(), ours(&swallowed).outcome()), ("transaction.failed", Outcome::RolledBack));

    let escaped = pool
        .transaction_once(key("a"), |tx| async move {
            std::mem::forget(tx);
            Ok::<i64, sqlx::Error>(3)
        })
        .await
        .unwrap_err();
    assert_eq!(ours(&escaped).code(), "transaction.escaped");

    // The forgotten one holds the key until its session ends.
    world.cut_all().await;
    let runs = AtomicU32::new(0);
    assert_eq!(write(&pool.by(LONG), key("a"), 4, &runs).await.unwrap(), 4);
    assert_eq!((runs.into_inner(), written(&pool).await), (1, vec![4]));
}

#[tokio::test]
async fn a_transaction_that_its_borrower_has_ended_is_not_committed_without_its_key() {
    let Some(world) = World::start().await else { return };
    let pool = with_tables(world.pool()).await;
    for end in ["ROLLBACK", "ROLLBACK; BEGIN; INSERT INTO written VALUES (5)", "DELETE FROM rds_proxy_pool_once"] {
        let error = pool
            .transaction_once(key("a"), |mut tx| async move {
                sqlx::query(INSERT).bind(1_i64).execute(&mut tx).await?;
                sqlx::raw_sql(end).execute(tx.lend()).await?;
                Ok::<i64, sqlx::Error>(1)
            })
            .await
            .unwrap_err();
        assert_eq!(ours(&error).code(), "commit.refused", "{end}: {error:?}");
        assert_eq!(written(&pool).await, Vec::<i64>::new(), "{end}");
    }
}

#[tokio::test]
async fn a_commit_in_doubt_that_cannot_be_repeated_is_unknown_and_the_next_delivery_finds_out() {
    let Some(world) = World::start().await else { return };
    for point in [Point::BeforeRequest, Point::BeforeReply] {
        world.refuse_connections(false).await;
        let pool = if point == Point::BeforeRequest { with_tables(world.pool()).await } else { world.pool() };
        let runs = AtomicU32::new(0);
        drop(world.proxy().inject(Fault::new(Message::Commit, point, Kind::Reset)));
        let n = i64::from(point == Point::BeforeReply);
        let id = n.to_string();
        let error = pool
            .by(Duration::from_millis(900))
            .transaction_once(key(&id), |mut tx| {
                let (world, runs) = (&world, &runs);
                async move {
                    runs.fetch_add(1, Ordering::Relaxed);
                    sqlx::query(INSERT).bind(n).execute(&mut tx).await?;
                    world.refuse_connections(true).await;
                    Ok::<i64, sqlx::Error>(n)
                }
            })
            .await
            .unwrap_err();
        let error = ours(&error);
        assert_eq!((error.code(), error.outcome()), ("commit.unknown", Outcome::Unknown), "{error:?}");
        assert!(error.hint().is_some_and(|hint| hint.contains("same key")), "{error:?}");
        world.refuse_connections(false).await;
        assert_eq!(write(&pool, key(&id), n, &runs).await.unwrap(), n);
        // What never arrived is run, what was done is not.
        assert_eq!(runs.into_inner(), if point == Point::BeforeReply { 1 } else { 2 });
    }
    assert_eq!(written(&world.pool()).await, [0, 1]);
}

#[tokio::test]
async fn no_later_error_hides_that_a_commit_is_in_doubt() {
    let Some(world) = World::start().await else { return };
    let pool = with_tables(world.pool()).await;
    let runs = AtomicU32::new(0);
    drop(world.proxy().inject(Fault::new(Message::Commit, Point::BeforeReply, Kind::Reset)));
    let error = pool
        .by(LONG)
        .transaction_once(key("a"), |mut tx| {
            let (world, runs) = (&world, &runs);
            async move {
                runs.fetch_add(1, Ordering::Relaxed);
                sqlx::query(INSERT).bind(1_i64).execute(&mut tx).await?;
                // Nobody can log in with the old ones any more.
                world.rotate_keys();
                Ok::<i64, sqlx::Error>(1)
            }
        })
        .await
        .unwrap_err();
    assert_eq!((ours(&error).code(), ours(&error).outcome()), ("commit.unknown", Outcome::Unknown), "{error:?}");
    assert!(world.logins_refused() > 0, "it was tried again");
    let pool = ProxyPool::new(world.config().credentials_provider(world.rotating()).build().unwrap()).unwrap();
    assert_eq!(write(&pool, key("a"), 2, &runs).await.unwrap(), 1);
    assert_eq!((runs.into_inner(), written(&pool).await), (1, vec![1]));
}

#[tokio::test]
async fn the_same_key_with_another_payload_is_refused() {
    let Some(world) = World::start().await else { return };
    let pool = with_tables(world.pool()).await;
    let runs = AtomicU32::new(0);
    write(&pool, key("a").payload(b"one"), 1, &runs).await.unwrap();
    let error = write(&pool, key("a").payload(b"other"), 2, &runs).await.unwrap_err();
    let error = ours(&error);
    assert_eq!((error.code(), error.kind()), ("once.payload", ErrorKind::Usage));
    assert_eq!(error.outcome(), Outcome::NotExecuted);
    assert_eq!(write(&pool, key("a"), 3, &runs).await.unwrap(), 1, "who has none compares none");
    assert_eq!((runs.into_inner(), written(&pool).await), (1, vec![1]));
}

#[tokio::test]
async fn a_result_that_cannot_be_stored_or_read_is_an_error() {
    let Some(world) = World::start().await else { return };
    let pool = with_tables(world.pool()).await;
    let long = async |key: OnceKey, length: usize| {
        pool.transaction_once(key, |mut tx| async move {
            sqlx::query(INSERT).bind(1_i64).execute(&mut tx).await?;
            Ok::<String, sqlx::Error>("é".repeat(length / 2))
        })
        .await
    };
    // Two of the bytes are the quotes.
    let error = long(key("a"), 64 * 1024).await.unwrap_err();
    assert_eq!((ours(&error).code(), ours(&error).outcome()), ("once.too_large", Outcome::RolledBack));
    assert_eq!(written(&pool).await, Vec::<i64>::new());
    for _ in 0..2 {
        assert_eq!(long(key("a"), 64 * 1024 - 2).await.unwrap().len(), 64 * 1024 - 2);
        assert_eq!(long(key("b").max_result_bytes(1 << 20), (1 << 20) - 2).await.unwrap().len(), (1 << 20) - 2);
    }
    assert_eq!(written(&pool).await, [1, 1]);

    let runs = AtomicU32::new(0);
    let error = write(&pool, key("a"), 2, &runs).await.unwrap_err();
    assert_eq!((ours(&error).code(), ours(&error).outcome()), ("once.result", Outcome::Committed));

    let error = pool
        .transaction_once(key("c"), |_| async { Ok::<_, sqlx::Error>(std::collections::BTreeMap::from([((1, 2), 3)])) })
        .await
        .unwrap_err();
    assert_eq!((ours(&error).code(), ours(&error).outcome()), ("once.result", Outcome::RolledBack));
}

#[tokio::test]
async fn a_key_is_no_sql_whatever_the_session_makes_of_backslashes() {
    let Some(world) = World::start().await else { return };
    let pool = with_tables(world.pool()).await;
    let runs = AtomicU32::new(0);
    for (conforming, n) in [("on", 1), ("off", 2)] {
        for hostile in ["\\'); DROP TABLE written; --", "'", "\\", "ключ", "a\u{1f980}"] {
            let set = format!("SET standard_conforming_strings = {conforming}");
            sqlx::raw_sql(sqlx::AssertSqlSafe(set)).execute(&pool).await.unwrap();
            let key = || OnceKey::new(format!("{hostile}{n}"), hostile).payload(hostile.as_bytes());
            for _ in 0..2 {
                assert_eq!(write(&pool, key(), n, &runs).await.unwrap(), n, "{hostile}");
            }
            let stored = "SELECT count(*) FROM rds_proxy_pool_once WHERE scope = $1 AND key = $2";
            let stored = sqlx::query_scalar::<_, i64>(stored).bind(format!("{hostile}{n}"));
            assert_eq!(stored.bind(format!("key:{hostile}")).fetch_one(&pool).await.unwrap(), 1, "{hostile}");
        }
    }
    assert_eq!((runs.into_inner(), written(&pool).await.len()), (10, 10));
}

#[tokio::test]
async fn a_wrong_key_and_a_missing_table_are_told_before_anything_is_done() {
    let Some(world) = World::start().await else { return };
    let pool = world.pool();
    let runs = AtomicU32::new(0);
    let error = write(&pool, key(""), 1, &runs).await.unwrap_err();
    assert_eq!((ours(&error).code(), ours(&error).outcome()), ("once.key", Outcome::NotSent));
    let error = write(&pool, key("a"), 1, &runs).await.unwrap_err();
    assert_eq!((ours(&error).code(), ours(&error).outcome()), ("once.missing", Outcome::NotExecuted));
    assert_eq!(runs.into_inner(), 0);
}

//! A real server says what a text changed.
//!
//! A read-only transaction would be no judge: notifications, advisory locks and messages in the log pass it. So the
//! server is looked at from another session before and after.

use sqlx::postgres::{PgConnection, PgListener};
use sqlx::{AssertSqlSafe, ConnectOptions, Row};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use super::super::cannot_write;
use support::servers::Postgres;

mod catalog;
mod grammar;
mod limits;
mod reads;
pub(in crate::engine::postgres) mod soup;
mod writers;

#[path = "../../../../../tests/support/mod.rs"]
pub(in crate::engine::postgres) mod support;

/// More cases than in a normal run.
const CASES: &str = "RDS_PROXY_POOL_CLASS_CASES";

/// Texts between two looks at the server.
const BATCH: usize = 100;

/// Functions of the user's that write, in several schemas, with every name that a word of SQL can be; and what they write
/// to. Names of built-in functions apart, as those are a documented limit.
const CONTENTS: &str = "
CREATE TABLE touched (id int GENERATED ALWAYS AS IDENTITY, by text);
CREATE TABLE t (id int PRIMARY KEY, a int, b int, name text, data jsonb, tags text[], at timestamptz, value int, first int);
CREATE TABLE u (id int, t_id int, name text, score numeric, day date);
INSERT INTO t SELECT i, i, i % 2, 'n' || i, '{\"a\": 1, \"b\": [1, 2]}', '{x,y}', now(), i, i FROM generate_series(1, 3) i;
INSERT INTO u SELECT i, i % 3, 'm' || i, i, now() FROM generate_series(1, 3) i;
CREATE SEQUENCE s;
CREATE SCHEMA app;
CREATE FUNCTION touch(by text) RETURNS boolean LANGUAGE plpgsql AS
    'BEGIN INSERT INTO public.touched (by) VALUES ($1); RETURN true; END';
CREATE FUNCTION app.lower(text) RETURNS text LANGUAGE sql AS 'SELECT public.touch(''app.lower'')::text';
CREATE PROCEDURE p() LANGUAGE sql AS 'SELECT public.touch(''p'')';
DO $$
DECLARE
    name text;
    arguments text;
    result text;
BEGIN
    FOR name IN
        SELECT word FROM pg_get_keywords() UNION VALUES ('f'), ('Lower'), ('NOW'), ('e'), ('n'), ('b'), ('x'), ('u')
        EXCEPT SELECT proname FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace
    LOOP
        FOREACH arguments IN ARRAY ARRAY['', 'int', 'text', 'boolean', 'int, int'] LOOP
            result := coalesce(nullif(split_part(arguments, ',', 1), ''), 'boolean');
            EXECUTE format('CREATE FUNCTION public.%I(%s) RETURNS %s LANGUAGE sql VOLATILE AS %L',
                name, arguments, result, format('SELECT public.touch(%L)::%s', name, result));
        END LOOP;
    END LOOP;
END $$;
CREATE FUNCTION seen() RETURNS text LANGUAGE sql AS $$
    SELECT jsonb_build_object(
        'rows', (SELECT count(*) FROM public.touched),
        'tables', (SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM public.t)
            || (SELECT md5(string_agg(u::text, ',' ORDER BY id)) FROM public.u),
        'relations', (SELECT md5(string_agg(c::text, ',' ORDER BY oid)) FROM pg_class c),
        'sequence', (SELECT last_value || is_called::text FROM public.s),
        'large objects', (SELECT count(*) FROM pg_largeobject_metadata),
        'next transaction', pg_snapshot_xmax(pg_current_snapshot())::text,
        'locks', (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'),
        'sessions', (SELECT string_agg(pid::text, ',' ORDER BY pid) FROM pg_stat_get_activity(NULL)
            WHERE backend_type = 'client backend' AND application_name <> 'runner'),
        'transactions', (SELECT count(*) FROM pg_stat_get_activity(NULL) WHERE state LIKE 'idle in%'),
        'files', (SELECT count(*) FROM pg_ls_dir('.')) + (SELECT count(*) FROM pg_ls_dir('pg_replslot')),
        'statistics', (SELECT string_agg(stats_reset::text, ',' ORDER BY datid) FROM pg_stat_database),
        'configuration', pg_conf_load_time()
    )::text
$$;
CREATE FUNCTION seen_inside() RETURNS text LANGUAGE sql AS $$
    SELECT jsonb_build_object(
        'settings', (SELECT md5(string_agg(name || setting || source, ',' ORDER BY name)) FROM pg_settings
            WHERE source = 'session'),
        'custom', current_setting('my.setting', true),
        'prepared', (SELECT count(*) FROM pg_prepared_statements WHERE NOT from_sql IS NULL AND from_sql),
        'cursors', (SELECT count(*) FROM pg_cursors WHERE is_holdable),
        'channels', (SELECT count(*) FROM pg_listening_channels()),
        'temporary', pg_my_temp_schema()
    )::text
$$;
";

/// A server, the session that runs texts, and the one that looks.
struct Oracle {
    server: &'static Postgres,
    /// Sent to each session that runs texts.
    settings: &'static str,
    session: PgConnection,
    observer: PgListener,
    /// Could be terminated.
    _bystander: PgConnection,
    /// Whoever else worked there would be seen.
    _alone: MutexGuard<'static, ()>,
}

/// What there is to see.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    outside: String,
    inside: String,
    notifications: Vec<String>,
    log: String,
}

/// What a batch of texts came to.
#[derive(Debug, Default)]
struct Tally {
    texts: usize,
    /// Of those, called harmless and run.
    run: usize,
    /// Of those, accepted by the server.
    accepted: usize,
}

impl Oracle {
    async fn start() -> Option<Oracle> {
        static SERVER: OnceCell<Option<Postgres>> = OnceCell::const_new();
        static ALONE: Mutex<()> = Mutex::const_new(());
        let alone = ALONE.lock().await;
        let start = async || {
            let server = Postgres::start().await?;
            // Once read, a catalog may be pruned at any time, which is no act of who reads it.
            for sql in [CONTENTS, "VACUUM", "CHECKPOINT"] {
                server.execute(sql).await;
            }
            Some(server)
        };
        let server = SERVER.get_or_init(start).await.as_ref()?;
        let pool = sqlx::pool::PoolOptions::new().max_connections(1).connect_with(server.options()).await;
        let mut observer = PgListener::connect_with(&pool.expect("the server accepts connections")).await.unwrap();
        observer.listen("channel").await.unwrap();
        let (session, bystander) = (server.connect().await.unwrap(), server.connect().await.unwrap());
        let mut oracle = Oracle { server, settings: "", session, observer, _bystander: bystander, _alone: alone };
        oracle.set("").await;
        Some(oracle)
    }

    /// Goes on with a new session that has these settings.
    async fn set(&mut self, settings: &'static str) {
        self.settings = settings;
        // It is replaced where it ends, as by a message that is no UTF-8 in the encoding of the session.
        let options = self
            .server
            .options()
            .application_name("runner")
            .options([("statement_timeout", "1s"), ("lock_timeout", "1s")]);
        self.session = options.connect().await.expect("the server accepts connections");
        sqlx::raw_sql(settings).execute(&mut self.session).await.unwrap();
        self.look().await;
    }

    /// Runs a text; whether the server accepted it.
    async fn run(&mut self, sql: &str) -> bool {
        match sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.session).await {
            Ok(_) => true,
            Err(sqlx::Error::Database(error)) if !error.message().contains("terminating") => false,
            Err(_) => {
                self.set(self.settings).await;
                false
            }
        }
    }

    async fn look(&mut self) -> Seen {
        let inside = sqlx::raw_sql("SELECT seen_inside()").fetch_one(&mut self.session).await;
        let outside = sqlx::raw_sql("SELECT seen(), pg_current_wal_insert_lsn()::text");
        let outside = outside.fetch_one(&mut self.observer).await.expect("nobody ends the session that looks");
        let notifications = std::iter::from_fn(|| self.observer.next_buffered());
        Seen {
            notifications: notifications.map(|notification| notification.payload().to_owned()).collect(),
            inside: inside.map_or_else(|error| error.to_string(), |row| row.get(0)),
            outside: outside.get(0),
            log: outside.get(1),
        }
    }

    /// What a text changed, if it did.
    async fn change(&mut self, sql: &str) -> Option<(Seen, Seen)> {
        let before = self.look().await;
        self.run(sql).await;
        let after = self.look().await;
        (before != after).then_some((before, after))
    }

    /// Runs those of the texts that are said to write nothing.
    ///
    /// # Panics
    ///
    /// One of them did.
    async fn judge(&mut self, texts: impl Iterator<Item = String>) -> Tally {
        let mut tally = Tally::default();
        let mut texts = texts.inspect(|_| tally.texts += 1).filter(|text| cannot_write(text));
        let (mut run, mut accepted) = (0, 0);
        loop {
            let batch: Vec<String> = texts.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                break;
            }
            let before = self.look().await;
            for text in &batch {
                run += 1;
                accepted += usize::from(self.run(text).await);
            }
            let after = self.look().await;
            if before != after {
                self.convict(&batch, &before, &after).await;
            }
        }
        drop(texts);
        Tally { run, accepted, ..tally }
    }

    /// Finds the text of a batch that changed something.
    async fn convict(&mut self, batch: &[String], before: &Seen, after: &Seen) {
        for text in batch {
            if let Some((before, after)) = self.change(text).await {
                panic!("this is said to write nothing:\n{text}\n{before:#?}\n{after:#?}");
            }
        }
        // The server's own processes write to the log now and then, and to nothing else.
        let but_for_the_log = Seen { log: before.log.clone(), ..after.clone() };
        assert_eq!(*before, but_for_the_log, "one of these changed something, once:\n{batch:#?}");
    }
}

/// How many cases to run.
pub(in crate::engine::postgres) fn cases(normally: usize) -> usize {
    std::env::var(CASES).map_or(normally, |number| number.parse().expect("a number"))
}

//! The ways a failover can go, as four clients see each: one idle, one in a transaction, one whose statement is under way,
//! one whose request queues; and what the old and the new server have afterwards.

use std::time::Duration;

use rds_proxy_pool::emulator::{Backend, Closed, Event, Existing, RdsProxyEmulator, SessionId};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::task::JoinHandle;

use super::{Client, MINUTE, PASSWORD, Stage, USER, backend, connected, end_of, ended, is_lost, options, soon};
use crate::support::process::POLL;
use crate::support::servers::{Postgres, Replication};

type Answer = Result<(), sqlx::Error>;

/// Long enough to count as for ever.
const DELAY: Duration = Duration::from_secs(60 * 60);
const TABLE: &str = "CREATE TABLE written (who text)";

struct Scene {
    stage: Stage,
    new: Postgres,
    on_new: PgConnection,
    /// On the old server; holds the lock that the busy client waits for.
    observer: PgConnection,
    idle: Client,
    open: Client,
    busy: JoinHandle<Answer>,
    queued: JoinHandle<Answer>,
    sessions: [SessionId; 4],
}

impl Scene {
    async fn set() -> Option<Scene> {
        let stage = Stage::start().await?;
        let new = Postgres::start().await?;
        let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {} OWNER app", stage.database.name));
        sqlx::raw_sql(create).execute(&mut new.connect().await.unwrap()).await.unwrap();
        let on_new = new.url().parse::<PgConnectOptions>().unwrap().database(&stage.database.name);
        let mut on_new = on_new.connect().await.unwrap();
        sqlx::raw_sql(TABLE).execute(&mut on_new).await.unwrap();
        let mut observer = PgConnection::connect(&stage.database.superuser_url).await.unwrap();
        sqlx::raw_sql("SELECT pg_advisory_lock(1)").execute(&mut observer).await.unwrap();

        let (mut idle, mut open) = (stage.client().await, stage.client().await);
        let (mut busy, mut queued) = (stage.client().await, stage.client().await);
        let sessions = [&idle, &open, &busy, &queued].map(|client| client.session);
        idle.run(TABLE).await.unwrap();
        open.run("BEGIN; INSERT INTO written VALUES ('open')").await.unwrap();
        let busy =
            tokio::spawn(
                async move { busy.run("INSERT INTO written SELECT 'busy' FROM pg_advisory_lock_shared(1)").await },
            );
        let waits = "SELECT count(*) = 1 FROM pg_locks JOIN pg_database d ON d.oid = database \
                     WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()";
        until(&mut observer, waits).await;
        // The two before have the database sessions there are.
        stage.proxy.set_init_delay(DELAY);
        let session = queued.session;
        let mut events = stage.proxy.events();
        let queued = tokio::spawn(async move { queued.run("INSERT INTO written VALUES ('queued')").await });
        soon(events.wait_for(|event| *event == Event::Queued(session))).await;
        Some(Scene { stage, new, on_new, observer, idle, open, busy, queued, sessions })
    }

    /// The failover; new database sessions are quick again from here on.
    fn fail_over(&self, existing: Existing) {
        self.stage.proxy.set_backend(Backend::new(self.new.address()).login("app", ""), existing);
        self.stage.proxy.set_init_delay(Duration::ZERO);
    }

    /// The busy client's statement can go on, if it is still there.
    async fn release(&mut self) {
        sqlx::raw_sql("SELECT pg_advisory_unlock(1)").execute(&mut self.observer).await.unwrap();
    }

    /// A client that comes afterwards.
    async fn newcomer(&self) {
        self.stage.client().await.run("INSERT INTO written VALUES ('new')").await.unwrap();
    }

    /// Everybody of these sessions is gone, for the reason a failover is.
    async fn all_ended(&self) {
        let mut events = self.stage.proxy.all_events();
        let mut left = self.sessions.to_vec();
        while !left.is_empty() {
            let gone = soon(events.wait_for(|event| matches!(event, Event::Closed { .. }))).await;
            let Event::Closed { session, reason: Closed::Failover } = gone else { panic!("{gone:?}") };
            left.retain(|one| *one != session);
        }
    }

    /// What the old server and the new one have when nothing runs any more.
    async fn written(mut self) -> (Vec<String>, Vec<String>) {
        let quiet = "SELECT count(*) = 1 FROM pg_stat_activity \
                     WHERE datname = current_database() AND state IN ('active', 'idle in transaction')";
        until(&mut self.observer, quiet).await;
        (rows(&mut self.observer).await, rows(&mut self.on_new).await)
    }
}

async fn rows(connection: &mut PgConnection) -> Vec<String> {
    sqlx::query_scalar("SELECT who FROM written ORDER BY who").fetch_all(connection).await.unwrap()
}

async fn until(connection: &mut PgConnection, sql: &'static str) {
    let polling = async {
        while !sqlx::query_scalar::<_, bool>(sql).fetch_one(&mut *connection).await.unwrap() {
            tokio::time::sleep(POLL).await;
        }
    };
    soon(polling).await;
}

fn assert_lost(answer: Answer) {
    let error = answer.unwrap_err();
    assert!(matches!(error, sqlx::Error::Io(_)), "without a word: {error}");
}

fn assert_told(answer: Answer) {
    let error = answer.unwrap_err();
    let told = error.as_database_error().unwrap_or_else(|| panic!("not from the proxy: {error}"));
    assert_eq!(told.code().as_deref(), Some("57P01"));
    assert_eq!(told.message(), "terminating connection due to administrator command");
    assert!(is_lost(&error));
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn a_clean_failover_keeps_the_idle_and_the_queued_and_cuts_what_is_under_way() {
    let Some(mut scene) = Scene::set().await else { return };
    scene.fail_over(Existing::Move);
    scene.idle.run("INSERT INTO written VALUES ('idle')").await.unwrap();
    soon(&mut scene.queued).await.unwrap().unwrap();
    assert_lost(scene.open.run("COMMIT").await);
    assert_lost(soon(&mut scene.busy).await.unwrap());
    scene.newcomer().await;
    scene.release().await;
    // The old server was not told that the busy client has gone.
    assert_eq!(scene.written().await, (names(&["busy"]), names(&["idle", "new", "queued"])));
}

#[tokio::test]
async fn clients_that_stay_finish_everything_on_the_old_server_and_only_new_ones_get_the_new_one() {
    let Some(mut scene) = Scene::set().await else { return };
    scene.fail_over(Existing::Stay);
    scene.idle.run("INSERT INTO written VALUES ('idle')").await.unwrap();
    soon(&mut scene.queued).await.unwrap().unwrap();
    scene.open.run("COMMIT").await.unwrap();
    scene.newcomer().await;
    scene.release().await;
    soon(&mut scene.busy).await.unwrap().unwrap();
    assert_eq!(scene.written().await, (names(&["busy", "idle", "open", "queued"]), names(&["new"])));
}

#[tokio::test]
async fn an_abrupt_failover_closes_everybody_without_a_word() {
    let Some(mut scene) = Scene::set().await else { return };
    scene.fail_over(Existing::Drop);
    scene.all_ended().await;
    assert_lost(scene.idle.run("INSERT INTO written VALUES ('idle')").await);
    assert_lost(scene.open.run("COMMIT").await);
    assert_lost(soon(&mut scene.busy).await.unwrap());
    assert_lost(soon(&mut scene.queued).await.unwrap());
    scene.newcomer().await;
    scene.release().await;
    assert_eq!(scene.written().await, (names(&["busy"]), names(&["new"])));
}

#[tokio::test]
async fn a_blue_green_switchover_tells_everybody_57p01_and_leaves_nothing_half_done() {
    let Some(mut scene) = Scene::set().await else { return };
    scene.fail_over(Existing::Terminate);
    scene.all_ended().await;
    assert_told(scene.idle.run("INSERT INTO written VALUES ('idle')").await);
    assert_told(scene.open.run("COMMIT").await);
    assert_told(soon(&mut scene.busy).await.unwrap());
    assert_told(soon(&mut scene.queued).await.unwrap());
    scene.newcomer().await;
    scene.release().await;
    assert_eq!(scene.written().await, (names(&[]), names(&["new"])));
}

#[tokio::test]
async fn without_a_writer_the_idle_and_the_queued_wait_for_one_until_the_borrow_timeout_and_no_longer() {
    let Some(mut scene) = Scene::set().await else { return };
    scene.stage.proxy.clear_backend();
    assert_lost(scene.open.run("COMMIT").await);
    assert_lost(soon(&mut scene.busy).await.unwrap());
    scene.stage.clock.advance(2 * MINUTE);
    let error = soon(&mut scene.queued).await.unwrap().unwrap_err();
    assert_eq!(error.as_database_error().and_then(|error| error.code()).as_deref(), Some("08000"), "{error}");
    let session = scene.idle.session;
    let mut events = scene.stage.proxy.events();
    let mut idle = scene.idle;
    let waiting = tokio::spawn(async move { idle.run("INSERT INTO written VALUES ('idle')").await });
    soon(events.wait_for(|event| *event == Event::Queued(session))).await;
    scene.stage.proxy.set_backend(Backend::new(scene.new.address()).login("app", ""), Existing::Move);
    scene.stage.proxy.set_init_delay(Duration::ZERO);
    soon(waiting).await.unwrap().unwrap();
    scene.idle = scene.stage.client().await;
    scene.newcomer().await;
    scene.release().await;
    assert_eq!(scene.written().await, (names(&["busy"]), names(&["idle", "new"])));
}

#[tokio::test]
async fn a_proxy_that_still_leads_to_the_demoted_node_sends_old_and_new_clients_there_until_told() {
    let Some(pair) = Postgres::start_pair(Replication::Synchronous).await else { return };
    let login = |server: &Postgres| Backend::new(server.address()).login("app", "");
    let builder = RdsProxyEmulator::builder(login(pair.standby()));
    let proxy = builder.password_user(USER, PASSWORD).start().unwrap();
    let write = "CREATE TABLE IF NOT EXISTS written (who text)";
    let code =
        |answer: Answer| answer.unwrap_err().as_database_error().and_then(|error| error.code().map(String::from));

    let mut old = Client::login(&proxy, &options(&proxy, "app")).await;
    assert_eq!(code(old.run(write).await).as_deref(), Some("25006"));
    let mut newcomer = Client::login(&proxy, &options(&proxy, "app")).await;
    assert_eq!(code(newcomer.run(write).await).as_deref(), Some("25006"));
    proxy.set_backend(login(pair.primary()), Existing::Stay);
    assert_eq!(code(old.run(write).await).as_deref(), Some("25006"));
    Client::login(&proxy, &options(&proxy, "app")).await.run(write).await.unwrap();
    proxy.set_backend(login(pair.primary()), Existing::Move);
    old.run(write).await.unwrap();
}

#[tokio::test]
async fn a_client_that_is_logging_in_is_closed_when_nobody_is_kept() {
    for existing in [Existing::Drop, Existing::Terminate] {
        let Some(stage) = Stage::start().await else { return };
        let mut raw = connected(&stage.proxy).await;
        let mut events = stage.proxy.all_events();
        let Event::Connected(session) = events.next().await else { panic!("it was the first") };
        stage.proxy.set_backend(backend(&stage.database), existing);
        assert_eq!(end_of(&mut raw).await, Ok(0));
        assert_eq!(ended(&mut events, session).await, Closed::Failover);
    }
}

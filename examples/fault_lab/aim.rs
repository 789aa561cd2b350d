//! A fault that one call brings with it, aimed at its COMMIT or at what comes before.

use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::FutureExt;
use rds_proxy_pool::emulator::{Event, Injected, Message, Point, SessionId};
use sqlx::{Connection, Executor, PgConnection, Postgres};
use tokio::sync::oneshot;

use crate::bank::DEADLINE;
use crate::plan::Local;
use crate::stage::{Run, lock};
use crate::watch::tag;

/// Until the server is at work on a COMMIT that the emulator has passed on.
const UNDER_WAY: Duration = Duration::from_millis(20);

/// Between two looks at the emulator's log.
const LOOK: Duration = Duration::from_millis(100);

/// The fault of one call.
pub(crate) struct Aim<'r> {
    run: &'r Run<'r>,
    worker: usize,
    number: i64,
    tag: String,
    fault: Option<Local>,
    injected: Mutex<Option<Injected>>,
    /// Told on which session the COMMIT comes that a lock is going to hold; taken with the first attempt.
    commit: Mutex<Option<oneshot::Sender<SessionId>>>,
    aimed: Mutex<bool>,
    struck: Mutex<Option<Instant>>,
}

/// A lock on the server that will hold a COMMIT.
pub(crate) struct Holder {
    lock: PgConnection,
    lasts: Duration,
    session: oneshot::Receiver<SessionId>,
}

/// What the call has met.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Met {
    pub(crate) fault: Local,
    pub(crate) at: Instant,
}

impl<'r> Aim<'r> {
    /// Everything but what waits for the COMMIT is in force from now on.
    pub(crate) async fn take(
        run: &'r Run<'r>,
        worker: usize,
        number: i64,
        fault: Option<Local>,
    ) -> (Self, Option<Holder>) {
        let tag = tag(worker);
        let mut aim = Aim {
            run,
            worker,
            number,
            tag,
            fault,
            injected: Mutex::default(),
            commit: Mutex::default(),
            aimed: Mutex::default(),
            struck: Mutex::default(),
        };
        let Some(fault) = fault else { return (aim, None) };
        if let Some(lasts) = fault.held {
            let Ok(lock) = locked(run, number).await else { return (aim, None) };
            let (sender, session) = oneshot::channel();
            aim.commit = Mutex::new(Some(sender));
            return (aim, Some(Holder { lock, lasts, session }));
        }
        let proxy = &run.stage.proxy;
        match fault.message {
            Message::Commit => {}
            _ if fault.is_of_login() => {
                drop(proxy.inject(fault.fault()));
                run.logins_injected.fetch_add(1, Ordering::Relaxed);
                aim.fault = None;
            }
            // A BEGIN does not say whose it is.
            Message::Begin => aim.injected = Mutex::new(Some(proxy.inject(fault.fault()))),
            _ => aim.injected = Mutex::new(Some(proxy.inject(fault.fault().text(&aim.tag)))),
        }
        (aim, None)
    }

    pub(crate) fn tag(&self) -> &str {
        &self.tag
    }

    pub(crate) fn is_at_a_parse(&self) -> bool {
        self.fault.is_some_and(|fault| fault.message == Message::Parse)
    }

    /// All statements have been sent but the last.
    pub(crate) async fn at_the_commit<T>(&self, tx: &mut T) -> Result<(), sqlx::Error>
    where
        for<'c> &'c mut T: Executor<'c, Database = Postgres>,
    {
        let Some(fault) = self.fault.filter(|fault| fault.message == Message::Commit) else { return Ok(()) };
        if std::mem::replace(&mut *lock(&self.aimed), true) {
            return Ok(());
        }
        let Some(session) = self.run.watch.session(self.worker) else { return Ok(()) };
        if fault.held.is_none() {
            *lock(&self.injected) = Some(self.run.stage.proxy.inject(fault.fault().session(session)));
            return Ok(());
        }
        let commit = lock(&self.commit).take();
        if let Some(commit) = commit {
            sqlx::query("INSERT INTO held (op) VALUES ($1)").bind(self.number).execute(tx).await?;
            let _ = commit.send(session);
        }
        Ok(())
    }

    /// Looks again and again whether the fault has struck: the emulator forgets that after some thousands of events.
    pub(crate) async fn watch(&self) -> std::convert::Infallible {
        loop {
            self.look();
            tokio::time::sleep(LOOK).await;
        }
    }

    fn look(&self) {
        let strike = lock(&self.injected).as_mut().and_then(|injected| injected.struck().now_or_never());
        if strike.is_some() {
            lock(&self.struck).get_or_insert_with(Instant::now);
        }
    }

    /// The call has its answer: nothing more is aimed at.
    pub(crate) fn over(&self) {
        drop(lock(&self.commit).take());
    }

    /// What came of it; a fault that met nobody is put back.
    pub(crate) fn met(self, held: Option<Instant>) -> Option<Met> {
        let fault = self.fault?;
        self.look();
        let at = held.or(*lock(&self.struck));
        let injected = self.injected.into_inner().ok().flatten();
        match at {
            Some(_) => drop(self.run.local_struck.fetch_add(1, Ordering::Relaxed)),
            None => {
                injected.into_iter().for_each(Injected::remove);
                self.run.put_back(fault);
            }
        }
        at.map(|at| Met { fault, at })
    }
}

impl Holder {
    /// Cuts the client off while its COMMIT waits, and lets that go on later; says when the cut was.
    pub(crate) async fn hold(self, run: &Run<'_>) -> Option<Instant> {
        let Holder { lock, lasts, session } = self;
        let proxy = &run.stage.proxy;
        let mut events = proxy.events();
        let waiting = async {
            let session = session.await.ok()?;
            let is_commit = |event: &Event| matches!(event, Event::Statement { session: whose, sql } if *whose == session && sql.contains("COMMIT"));
            let is_over = |event: &Event| matches!(event, Event::Closed { session: whose, .. } if *whose == session);
            let event = events.wait_for(|event| is_commit(event) || is_over(event)).await;
            is_commit(&event).then_some(session)
        };
        let session = tokio::time::timeout(DEADLINE, waiting).await.ok().flatten();
        if let Some(session) = session {
            tokio::time::sleep(UNDER_WAY).await;
            proxy.cut(session).await;
        }
        let cut = session.map(|_| Instant::now());
        if cut.is_some() {
            tokio::time::sleep(lasts).await;
        }
        // Its server may be gone by now, and the lock with it.
        let _ = lock.close().await;
        cut
    }
}

async fn locked(run: &Run<'_>, number: i64) -> Result<PgConnection, sqlx::Error> {
    let mut owner = run.stage.owner().await?;
    sqlx::query("SELECT pg_advisory_lock($1)").bind(number).execute(&mut owner).await?;
    Ok(owner)
}

impl Local {
    /// What happens, in a word.
    pub(crate) fn name(self) -> &'static str {
        use rds_proxy_pool::emulator::Kind::{Delay, Drip, Late, NeverAnswer, StopReading};
        match (self.message, self.kind, self.point) {
            _ if self.held.is_some() => "commit_held_by_a_lock",
            (Message::Commit, Late { .. }, _) => "commit_delivered_late",
            (Message::Commit, Delay { .. } | Drip { .. }, _) => "commit_slow",
            (Message::Commit, NeverAnswer | StopReading, _) => "commit_met_silence",
            (Message::Commit, _, Point::BeforeReply | Point::MidReply) => "commit_reply_lost",
            (Message::Commit, ..) => "commit_never_delivered",
            (Message::Begin, ..) => "begin",
            (Message::Startup | Message::Login, ..) => "login",
            _ => "statement",
        }
    }

    pub(crate) fn is_of_commit(self) -> bool {
        self.message == Message::Commit
    }
}

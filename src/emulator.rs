//! A local RDS Proxy in front of a real PostgreSQL, for tests of your own handlers.
//!
//! It speaks TLS with a certificate authority of its own, verifies IAM tokens with code that shares nothing with the
//! signer of this crate, answers refusals with the codes and texts RDS Proxy documents, keeps idle clients through a
//! failover, closes them at the idle timeout, counts round trips, and has the metrics CloudWatch would show. It listens on
//! 127.0.0.1 only.
//!
//! Clients of the same user, database and startup packet share database sessions: one has it from the first message of a
//! request or transaction to the end, then the next. Statements prepared by the protocol go along, under names of the
//! proxy's own, which the texts of some errors show. What [`PinReason`] lists keeps a client on its database session.
//!
//! It runs in a thread of its own, so a test may block, or use any runtime.

mod backend;
mod builder;
mod carrier;
mod event;
mod fault;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod iam;
mod in_force;
mod limits;
mod link;
mod login;
mod metrics;
mod pin;
mod pool;
mod postgres;
mod prepared;
mod proxy;
mod relay;
mod scram;
mod session;
mod strike;
mod text;
mod tls;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::watch;

use crate::secret::Secret;
use proxy::{Proxy, User};
use scram::Verifier;
use session::{Command, Cut};

pub use backend::Backend;
pub use builder::Builder;
pub use event::{Closed, Counts, Event, Events, SessionId};
pub use fault::{ClientMessage, Delivered, Fault, Kind, Message, Point, Schedule, Strike};
pub use iam::{AccessKey, TokenRefusal};
pub use in_force::Injected;
pub use limits::Limit;
pub use link::Link;
pub use metrics::Metrics;
pub use pin::PinReason;

/// What happens to clients that are connected when the database moves.
///
/// New clients go to the new database in any case. Where a client is cut while a statement runs, the server it ran on,
/// if it is still there, may finish it: what a client is not told has happened may have happened.
///
/// Two more ways a failover can go need none of these. While there is no writer, see
/// [`clear_backend`](RdsProxyEmulator::clear_backend). And a proxy that has not noticed that its writer was demoted sends
/// old and new clients there until it is told otherwise: have it in front of a read-only server, then call
/// [`set_backend`](RdsProxyEmulator::set_backend).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Existing {
    /// A clean failover, the documented one: idle ones are moved along unnoticed, requests that queue are served by the
    /// new database, those in a transaction or with a request under way are cut.
    ///
    /// Source: "RDS Proxy concepts and terminology", on failover.
    Move,
    /// They stay where they are, as sessions do that still lead to a demoted writer; those that queue without a database
    /// are served by the new one.
    ///
    /// Source: "Using RDS Proxy with Blue/Green Deployments", where the proxy goes on with a database that is read-only by
    /// then. For other failovers it is not documented; drivers know sessions that got 25006 after one.
    Stay,
    /// An abrupt failover: every client connection is closed without a word, also those that are logging in.
    ///
    /// Source: users' reports of failovers, "server closed the connection unexpectedly". It is not documented.
    Drop,
    /// A switchover of a blue/green deployment: every client is told FATAL 57P01 and closed.
    ///
    /// As on a server that stops, statements under way are stopped first: a client that is told this has not missed the
    /// success of one, unless its connection broke before. A client that has not proven who it is is closed.
    ///
    /// Source: "Using RDS Proxy with Blue/Green Deployments": queries get this error during the switchover, and at its end
    /// existing connections are dropped. Here both happen at once, to idle clients too.
    Terminate,
}

/// A running emulator; stopped, with all its connections, when dropped.
///
/// ```no_run
/// use rds_proxy_pool::emulator::{AccessKey, Backend, RdsProxyEmulator};
///
/// # fn main() -> std::io::Result<()> {
/// let proxy = RdsProxyEmulator::builder(Backend::new(([127, 0, 0, 1], 5432)).login("app", "secret"))
///     .iam_user("app")
///     .access_key(AccessKey::new("AKIAEXAMPLE", "a secret key"))
///     .start()?;
/// println!("RDS_PROXY_ENDPOINT=localhost:{}", proxy.port());
/// # Ok(())
/// # }
/// ```
pub struct RdsProxyEmulator {
    proxy: Arc<Proxy>,
    listening: watch::Sender<bool>,
    bound: watch::Receiver<bool>,
    port: u16,
    thread: Option<JoinHandle<()>>,
    stop: watch::Sender<bool>,
}

impl RdsProxyEmulator {
    /// An emulator in front of `backend`: for `localhost` in `us-east-1`, with no users yet.
    pub fn builder(backend: Backend) -> Builder {
        Builder::new(backend)
    }

    /// The name in its certificate.
    pub fn host(&self) -> &str {
        &self.proxy.audience.host
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The certificate authority as PEM: for `DB_CA_FILE` or [`ca_pem`](crate::ProxyConfigBuilder::ca_pem).
    pub fn ca_pem(&self) -> &str {
        &self.proxy.identity.ca_pem
    }

    /// What has been counted so far.
    pub fn counts(&self) -> Counts {
        self.proxy.log.counts()
    }

    /// What CloudWatch would show.
    pub fn metrics(&self) -> Metrics {
        self.proxy.meters.read(self.counts(), self.proxy.pool.limit())
    }

    /// Completes when the counts satisfy `enough`.
    pub async fn counted(&self, enough: impl FnMut(Counts) -> bool) {
        self.proxy.log.counted(enough).await;
    }

    /// The events from now on; those that thousands have followed are forgotten.
    pub fn events(&self) -> Events {
        self.proxy.log.from_now()
    }

    /// The events from the start on; of many thousands the newest.
    pub fn all_events(&self) -> Events {
        self.proxy.log.from_start()
    }

    /// From now on only tokens of these credentials are accepted.
    pub fn set_access_keys(&self, keys: impl IntoIterator<Item = AccessKey>) {
        self.proxy.settings().access_keys = keys.into_iter().collect();
    }

    /// Adds a user who logs in with a password, or changes the password of one.
    pub fn set_password(&self, user: impl Into<String>, password: impl Into<Secret>) {
        self.proxy.settings().users.insert(user.into(), User::Password(Verifier::new(&password.into())));
    }

    /// Points the proxy at another database: a failover, or the end of one. [`Existing`] lists how they can go.
    pub fn set_backend(&self, backend: Backend, existing: Existing) {
        self.proxy.settings().backend = Some(backend.clone());
        if existing != Existing::Stay {
            self.proxy.pool.clear();
        }
        self.proxy.command_all(&match existing {
            Existing::Move => Command::Move(Some(backend)),
            Existing::Stay => Command::Offer(backend),
            Existing::Drop => Command::FailOver(Cut::Close),
            Existing::Terminate => Command::FailOver(Cut::Terminate),
        });
    }

    /// Takes the database away, as in a failover that has no new writer yet: idle clients stay connected, those with work
    /// under way are cut, and new work queues until [`set_backend`](Self::set_backend) or the
    /// [borrow timeout](Builder::connection_borrow_timeout), when it is refused with 08000 and the client goes on.
    ///
    /// Source: "RDS Proxy concepts and terminology", on failover.
    pub fn clear_backend(&self) {
        self.proxy.settings().backend = None;
        self.proxy.pool.clear();
        self.proxy.command_all(&Command::Move(None));
    }

    /// Puts a fault in force, beside those that are.
    ///
    /// ```no_run
    /// # async fn example(proxy: &rds_proxy_pool::emulator::RdsProxyEmulator) {
    /// use rds_proxy_pool::emulator::{ClientMessage, Delivered, Fault, Kind, Message, Point};
    ///
    /// let mut lost_answer = proxy.inject(Fault::new(Message::Commit, Point::BeforeReply, Kind::Reset));
    /// // … a handler that commits, in another task …
    /// let strike = lost_answer.struck().await;
    /// assert_eq!((strike.received, strike.delivered), (Some(ClientMessage::Query), Delivered::Answered));
    /// # }
    /// ```
    pub fn inject(&self, fault: Fault) -> Injected {
        self.proxy.faults.inject(fault, self.events())
    }

    /// Puts a schedule of faults in force, beside the faults that are.
    pub fn follow(&self, schedule: Schedule) -> Injected {
        self.proxy.faults.follow(schedule, self.events())
    }

    /// Takes all faults and schedules away; what they have struck stays so.
    pub fn clear_faults(&self) {
        self.proxy.faults.clear();
    }

    /// Closes every client connection with FIN; completes when they are closed.
    pub async fn cut_all(&self) {
        self.proxy.end_all(&Command::Cut(Cut::Close)).await;
    }

    /// Resets every client connection with RST; completes when they are closed.
    pub async fn reset_all(&self) {
        self.proxy.end_all(&Command::Cut(Cut::Reset)).await;
    }

    /// Closes one client connection with FIN; completes when it is closed.
    pub async fn cut(&self, session: SessionId) {
        let found = self.proxy.registry().get(&session).cloned();
        if let Some(commands) = found {
            let _ = commands.send(Command::Cut(Cut::Close));
            commands.closed().await;
        }
    }

    /// Asks every client connection with nothing under way to close.
    pub fn cut_idle(&self) {
        self.proxy.command_all(&Command::CutIfIdle);
    }

    /// From now on nothing is answered, on old connections and new ones; of what clients send, what sockets hold is taken.
    ///
    /// That a client has gone is seen when it goes on.
    pub fn stop_answering(&self) {
        self.proxy.answering.send_replace(false);
    }

    /// Goes on where [`stop_answering`](Self::stop_answering) stopped.
    pub fn resume_answering(&self) {
        self.proxy.answering.send_replace(true);
    }

    /// From now on new connections are refused by the operating system; completes when that is so.
    pub async fn refuse_connections(&self) {
        self.listen(false).await;
    }

    /// Takes new connections again; completes when that is so.
    pub async fn accept_connections(&self) {
        self.listen(true).await;
    }

    /// Stops it: closes every connection and completes when all is closed.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        // The thread drops its receiver at its end.
        self.stop.closed().await;
        self.join();
    }

    async fn listen(&self, listen: bool) {
        self.listening.send_replace(listen);
        // An error means that the thread has ended: then nothing is accepted.
        let _ = self.bound.clone().wait_for(|bound| *bound == listen).await;
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed by its own hook.
            let _ = thread.join();
        }
    }
}

impl Drop for RdsProxyEmulator {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        self.join();
    }
}

impl fmt::Debug for RdsProxyEmulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.counts();
        f.debug_struct("RdsProxyEmulator").field("port", &self.port).field("counts", &counts).finish_non_exhaustive()
    }
}

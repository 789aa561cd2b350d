//! How an emulator is set up.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use super::iam::{Audience, LONGEST_LIFE};
use super::limits::{Gate, Limits};
use super::link::{Link, Links};
use super::pool::Pool;
use super::proxy::{Proxy, Settings, User, accept, listener, socket};
use super::scram::Verifier;
use super::tls::Identity;
use super::{AccessKey, Backend, RdsProxyEmulator, event};
use crate::clock::{Clock, SystemClock};
use crate::secret::Secret;

/// How an emulator is set up, see [`RdsProxyEmulator::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    host: String,
    region: String,
    token_life: Duration,
    requires_tls: bool,
    pub(super) limits: Limits,
    settings: Settings,
    pub(super) link: Option<Link>,
    pub(super) database_connections: Option<usize>,
    clock: Arc<dyn Clock>,
}

impl Builder {
    pub(super) fn new(backend: Backend) -> Self {
        Builder {
            host: "localhost".to_owned(),
            region: "us-east-1".to_owned(),
            token_life: LONGEST_LIFE,
            requires_tls: true,
            limits: Limits::default(),
            settings: Settings {
                backend: Some(backend),
                users: BTreeMap::new(),
                access_keys: Vec::new(),
                parameters: None,
            },
            link: None,
            database_connections: None,
            clock: Arc::new(SystemClock),
        }
    }

    /// The name clients connect to and sign for, which the certificate is made for: `localhost` by default.
    ///
    /// It has to resolve to 127.0.0.1.
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = host.into();
        self
    }

    /// The region tokens must be signed for: `us-east-1` by default.
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.region = region.into();
        self
    }

    /// A database user who logs in by IAM.
    pub fn iam_user(mut self, name: impl Into<String>) -> Self {
        self.settings.users.insert(name.into(), User::Iam);
        self
    }

    /// A database user who logs in with this password, by SCRAM.
    pub fn password_user(mut self, name: impl Into<String>, password: impl Into<Secret>) -> Self {
        self.settings.users.insert(name.into(), User::Password(Verifier::new(&password.into())));
        self
    }

    /// Credentials whose tokens are accepted, beside those already given.
    pub fn access_key(mut self, key: AccessKey) -> Self {
        self.settings.access_keys.push(key);
        self
    }

    /// How long a token is accepted: 15 minutes by default and at most. A shorter life shows what happens at its end.
    pub fn token_life(mut self, life: Duration) -> Self {
        self.token_life = life;
        self
    }

    /// Whether a connection without TLS is refused at once; it is by default. IAM users need TLS either way.
    pub fn requires_tls(mut self, requires: bool) -> Self {
        self.requires_tls = requires;
        self
    }

    /// The clock by which tokens are judged and timeouts run; an [`AdjustableClock`](crate::clock::AdjustableClock) lets a
    /// test advance it.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Starts it on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no port can be bound, no thread started, or the host is not a DNS name or address.
    pub fn start(self) -> io::Result<RdsProxyEmulator> {
        // It never listens: it keeps the port ours while connections are refused.
        let reservation = socket(0)?;
        let port = reservation.local_addr()?.as_socket().map_or(0, |address| address.port());
        let Builder { host, region, token_life, requires_tls, limits, settings, link, database_connections, clock } =
            self;
        let meters = Arc::default();
        let proxy = Arc::new(Proxy {
            identity: Identity::new(&host)?,
            audience: Audience { host, port, region, token_life },
            requires_tls,
            gate: Gate::new(limits),
            clock,
            settings: Mutex::new(settings),
            answering: watch::Sender::new(true),
            sessions: Mutex::default(),
            next_session: AtomicU64::new(1),
            log: event::Log::new(),
            faults: Arc::default(),
            links: Links::new(link),
            pool: Pool::new(database_connections, Arc::clone(&meters)),
            meters,
        });
        let first = listener(port)?;
        // A crowd is seen when it comes, not when the handshakes of those before it are done.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().event_interval(4).build()?;
        let (listening, should_listen) = watch::channel(true);
        let (now_bound, bound) = watch::channel(true);
        let (stop, stopped) = watch::channel(false);
        let serving = Arc::clone(&proxy);
        let thread = std::thread::Builder::new().name("rds-proxy-emulator".to_owned()).spawn(move || {
            let _reservation = reservation;
            runtime.block_on(accept(serving, first, port, should_listen, now_bound, stopped));
        })?;
        Ok(RdsProxyEmulator { proxy, listening, bound, port, thread: Some(thread), stop })
    }
}

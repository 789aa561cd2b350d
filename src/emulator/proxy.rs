//! What all sessions share, and the loop that starts them.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::iam::Audience;
use super::in_force::Faults;
use super::limits::{Gate, Limits};
use super::link::Links;
use super::metrics::Meters;
use super::pool::Pool;
use super::scram::Verifier;
use super::session::{Command, serve};
use super::tls::Identity;
use super::wire::Frame;
use super::{AccessKey, Backend, Event, SessionId, event};
use crate::clock::Clock;

/// Before another try where the machine is short of something.
const SHORTAGE: Duration = Duration::from_millis(10);

/// How a user proves who they are.
#[derive(Clone, Debug)]
pub(super) enum User {
    Iam,
    Password(Verifier),
}

/// What can change while it runs.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) backend: Option<Backend>,
    pub(super) users: BTreeMap<String, User>,
    pub(super) access_keys: Vec<AccessKey>,
    /// What the database last said about itself.
    pub(super) parameters: Option<Vec<Frame>>,
}

/// What all sessions share.
pub(super) struct Proxy {
    pub(super) identity: Identity,
    pub(super) audience: Audience,
    pub(super) requires_tls: bool,
    pub(super) gate: Gate,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) settings: Mutex<Settings>,
    pub(super) answering: watch::Sender<bool>,
    pub(super) sessions: Mutex<BTreeMap<SessionId, mpsc::UnboundedSender<Command>>>,
    pub(super) next_session: AtomicU64,
    pub(super) log: Arc<event::Log>,
    pub(super) faults: Arc<Faults>,
    pub(super) links: Links,
    pub(super) pool: Arc<Pool>,
    pub(super) meters: Arc<Meters>,
}

impl Proxy {
    pub(super) fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn registry(&self) -> MutexGuard<'_, BTreeMap<SessionId, mpsc::UnboundedSender<Command>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn user(&self, name: &str) -> Option<User> {
        self.settings().users.get(name).cloned()
    }

    pub(super) fn forget(&self, session: SessionId) {
        self.registry().remove(&session);
    }

    /// Completes `length` after `start`, whatever the limits say of that length by then.
    pub(super) async fn passed(&self, start: Instant, length: impl Fn(&Limits) -> Duration) {
        self.gate.passed(&*self.clock, start, length).await;
    }

    pub(super) fn is_answering(&self) -> bool {
        *self.answering.borrow()
    }

    /// Completes while the proxy answers.
    pub(super) async fn answers(&self) {
        // The sender lives in `self`.
        let _ = self.answering.subscribe().wait_for(|answering| *answering).await;
    }

    pub(super) fn command_all(&self, command: &Command) {
        for commands in self.registry().values() {
            // A session that has just ended needs no command.
            let _ = commands.send(command.clone());
        }
    }

    pub(super) async fn end_all(&self, command: &Command) {
        let all: Vec<_> = self.registry().values().cloned().collect();
        for commands in &all {
            let _ = commands.send(command.clone());
        }
        for commands in all {
            commands.closed().await;
        }
    }
}

/// Accepts clients until told to stop.
pub(super) async fn accept(
    proxy: Arc<Proxy>,
    first: std::net::TcpListener,
    port: u16,
    mut should_listen: watch::Receiver<bool>,
    bound: watch::Sender<bool>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut sessions = JoinSet::new();
    let mut listener = TcpListener::from_std(first).ok();
    loop {
        let listen = *should_listen.borrow_and_update();
        if listen != listener.is_some() {
            listener = listen.then(|| self::listener(port).and_then(TcpListener::from_std).ok()).flatten();
        }
        if listen == listener.is_some() {
            bound.send_replace(listen);
        }
        let accepting = async {
            match &listener {
                Some(listener) => listener.accept().await,
                // The machine is short of something; the port is ours, so it will be bound again.
                None if listen => Err(io::ErrorKind::NotConnected.into()),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => break,
            changed = should_listen.changed() => {
                if changed.is_err() {
                    break;
                }
            }
            accepted = accepting => {
                let Ok(stream) = accepted.and_then(|(stream, _)| proxy.links.lead(stream)) else {
                    // The client has gone again, or a shortage: not worth a busy loop.
                    tokio::time::sleep(SHORTAGE).await;
                    continue;
                };
                let id = SessionId(proxy.next_session.fetch_add(1, Ordering::Relaxed));
                let (commands, orders) = mpsc::unbounded_channel();
                proxy.registry().insert(id, commands);
                proxy.log.record(Event::Connected(id));
                sessions.spawn(serve(stream, id, Arc::clone(&proxy), orders));
            }
            Some(_) = sessions.join_next() => {}
        }
    }
    drop(listener);
    // Their senders gone, the sessions end by themselves.
    proxy.registry().clear();
    while sessions.join_next().await.is_some() {}
    proxy.pool.clear();
    proxy.links.stop();
}

pub(super) fn socket(port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    socket.bind(&SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).into())?;
    Ok(socket)
}

pub(super) fn listener(port: u16) -> io::Result<std::net::TcpListener> {
    let socket = socket(port)?;
    socket.set_nonblocking(true)?;
    socket.listen(1024)?;
    Ok(socket.into())
}

//! One client session from its first byte to its last.

use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, Socket};
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedReceiver;

use super::backend::Backend;
use super::event::{Closed, Event, SessionId};
use super::login::{NotLoggedIn, login};
use super::proxy::Proxy;
use super::relay::Session;
use super::strike::Target;

/// A login takes no longer than this.
const LOGIN_LIMIT: Duration = Duration::from_secs(60);

/// What a test does to a session.
#[derive(Clone, Debug)]
pub(super) enum Command {
    /// Cut it, whatever it is doing.
    Cut(Cut),
    /// Cut it if it has nothing under way.
    CutIfIdle,
    /// Its database is another one now, or none: what is under way is lost, an idle client does not notice.
    Move(Option<Backend>),
    /// The database moved and nobody is kept.
    FailOver(Cut),
    /// Here is a database, for a session that has none.
    Offer(Backend),
}

impl Command {
    /// What there is to do for a session that waits or has something under way, unless it ends.
    pub(super) fn interrupt(command: Option<Command>) -> Result<Option<Command>, Ended> {
        match command {
            None => Err(Ended::quietly(Closed::Shutdown)),
            Some(Command::Cut(how)) => Err(Ended(Closed::Cut, how)),
            Some(Command::FailOver(how)) => Err(Ended(Closed::Failover, how)),
            Some(Command::CutIfIdle) => Ok(None),
            command => Ok(command),
        }
    }
}

/// How a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// With FIN.
    Close,
    /// With RST.
    Reset,
    /// With FIN, and before it with FATAL 57P01 where a client has logged in or waits for the end of its login.
    Terminate,
}

/// The end of a session.
#[derive(Debug)]
pub(super) struct Ended(pub(super) Closed, pub(super) Cut);

impl Ended {
    pub(super) fn quietly(reason: Closed) -> Self {
        Ended(reason, Cut::Close)
    }
}

/// Serves one client until either side ends it.
pub(super) async fn serve(
    stream: TcpStream,
    id: SessionId,
    proxy: Arc<Proxy>,
    mut commands: UnboundedReceiver<Command>,
) {
    // A second handle, so that the connection can be cut under whatever layers it has by then.
    let handles = stream.set_nodelay(true).and_then(|()| {
        let socket = SockRef::from(&stream).try_clone()?;
        let watched = TcpStream::from_std(socket.try_clone()?.into())?;
        Ok((socket, watched))
    });
    let ended = match &handles {
        Ok((_, watched)) => run(stream, Target { id, proxy: &proxy, socket: watched }, &mut commands).await,
        Err(_) => Ended::quietly(Closed::ByClient),
    };
    if let Ok((socket, _)) = handles {
        hang_up(&socket, ended.1);
    }
    proxy.forget(id);
    proxy.log.record(Event::Closed { session: id, reason: ended.0 });
}

/// Errors here mean that the client was faster.
fn hang_up(socket: &Socket, how: Cut) {
    match how {
        Cut::Close | Cut::Terminate => drop(socket.shutdown(std::net::Shutdown::Both)),
        Cut::Reset => drop(socket.set_linger(Some(Duration::ZERO))),
    }
}

async fn run(stream: TcpStream, target: Target<'_>, commands: &mut UnboundedReceiver<Command>) -> Ended {
    let proxy = target.proxy;
    let opened = proxy.clock.monotonic();
    let mut assigned = proxy.settings().backend.clone();
    let logged_in = {
        let logging_in = login(stream, target);
        tokio::pin!(logging_in);
        loop {
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    None => return Ended::quietly(Closed::Shutdown),
                    Some(Command::Cut(how)) => return Ended(Closed::Cut, how),
                    Some(Command::FailOver(how)) => return Ended(Closed::Failover, how),
                    Some(Command::CutIfIdle) => {}
                    Some(Command::Move(backend)) => assigned = backend,
                    Some(Command::Offer(backend)) => drop(assigned.get_or_insert(backend)),
                },
                result = &mut logging_in => break result,
                () = proxy.clock.sleep_until(opened + LOGIN_LIMIT) => return Ended::quietly(Closed::LoginFailed),
            }
        }
    };
    let mut logged_in = match logged_in {
        Ok(logged_in) => logged_in,
        Err(NotLoggedIn::Struck(ended)) => return ended,
        Err(NotLoggedIn::Refused | NotLoggedIn::Gone) => return Ended::quietly(Closed::LoginFailed),
    };
    let (welcome, fault) = (std::mem::take(&mut logged_in.welcome), logged_in.fault.take());
    Session::new(target, commands, logged_in, assigned, opened).run(welcome, fault).await
}

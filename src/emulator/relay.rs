//! A client relayed frame by frame to a database session, which it has while something is under way or it is pinned.

use std::collections::VecDeque;
use std::time::Instant;

use tokio::sync::mpsc::UnboundedReceiver;

use super::backend::Backend;
use super::event::{Closed, Event};
use super::fault::{ClientMessage, Delivered};
use super::in_force::Armed;
use super::limits::Admission;
use super::login::LoggedIn;
use super::metrics::{Meter, Present};
use super::pin::PinReason;
use super::pool::Database;
use super::postgres::{backend_key, parameter_status, ready_for_query, sync, terminate};
use super::prepared::{Passed, Prepared};
use super::session::{Command, Ended};
use super::strike::Target;
use super::wire::{Frame, Wire};
use borrow::Assigned;
use faults::Aimed;

mod answers;
mod borrow;
mod farewell;
mod faults;

/// A client that is logged in.
pub(super) struct Session<'p> {
    target: Target<'p>,
    commands: &'p mut UnboundedReceiver<Command>,
    client: Wire,
    database: Option<Box<Database>>,
    assigned: Assigned,
    prepared: Prepared,
    /// It keeps its database session, or had one to keep.
    pin: Option<PinReason>,
    /// As in the last ReadyForQuery: idle, in a transaction, in a failed one.
    status: u8,
    /// Requests that will end with a ReadyForQuery.
    pending: VecDeque<u8>,
    /// What the server has asked of data to copy, less what the client has sent the end of.
    copying: isize,
    /// The database has got messages of a request that will end with a Sync.
    unsynced: bool,
    /// The client has sent something it has no answer to.
    waited_for: bool,
    /// Its request failed here; what follows up to the Sync is not run.
    discarding: bool,
    /// The last message received in full.
    received: ClientMessage,
    /// The faults that requests under way have met and not reached.
    armed: VecDeque<Aimed>,
    /// The answer to the first of them, as far as it has come.
    held: Vec<Frame>,
    opened: Instant,
    last_traffic: Instant,
    meter: Meter,
    _admission: Admission,
}

/// In place of the letter of a client's request: one of the proxy's own, whose answer no client sees.
const OWN: u8 = 0;

/// What the relay does next.
enum Next {
    Command(Option<Command>),
    FromClient(std::io::Result<Option<Frame>>),
    FromBackend(std::io::Result<Option<Frame>>),
    SentToClient(std::io::Result<()>),
    SentToBackend(std::io::Result<()>),
    TooOld,
}

impl<'p> Session<'p> {
    pub(super) fn new(
        target: Target<'p>,
        commands: &'p mut UnboundedReceiver<Command>,
        LoggedIn { wire: mut client, startup, encrypted, admission, .. }: LoggedIn,
        assigned: Option<Backend>,
        opened: Instant,
    ) -> Self {
        client.reader.expect_requests();
        Session {
            target,
            commands,
            client,
            database: None,
            assigned: Assigned::new(startup, assigned),
            prepared: Prepared::new(target.id),
            pin: None,
            status: b'I',
            pending: VecDeque::new(),
            copying: 0,
            unsynced: false,
            waited_for: false,
            discarding: false,
            received: ClientMessage::Password,
            armed: VecDeque::new(),
            held: Vec::new(),
            opened,
            last_traffic: opened,
            meter: Meter::new(&target.proxy.meters, encrypted),
            _admission: admission,
        }
    }

    /// Relays until either side ends it.
    pub(super) async fn run(mut self, welcome: Vec<Frame>, fault: Option<Armed>) -> Ended {
        let ended = match self.begin(welcome, fault).await {
            Ok(()) => self.relay().await,
            Err(ended) => ended,
        };
        self.farewell(ended).await
    }

    /// Completes the login with what the database says about itself.
    async fn begin(&mut self, mut reply: Vec<Frame>, fault: Option<Armed>) -> Result<(), Ended> {
        let parameters = match self.known_parameters() {
            Some(known) => known,
            None => match self.borrow(&sync()).await? {
                Ok(()) => {
                    let database = self.database.take();
                    let parameters = database.as_ref().map(|database| database.parameters.to_vec());
                    database.into_iter().for_each(|database| self.target.proxy.pool.give_back(database));
                    parameters.unwrap_or_default()
                }
                Err(frame) => {
                    reply.push(frame);
                    self.tell(reply, fault).await?;
                    let _ = self.client.writer.finish().await;
                    return Err(Ended::quietly(Closed::LoginFailed));
                }
            },
        };
        reply.extend(parameters);
        reply.extend([backend_key(self.target.id.0), ready_for_query(b'I')]);
        self.tell(reply, fault).await?;
        self.client.counted = Some(self.meter.client());
        let user = self.assigned.startup.user.clone();
        self.target.proxy.log.record(Event::LoggedIn { session: self.target.id, user });
        Ok(())
    }

    /// Answers the end of the login.
    async fn tell(&mut self, reply: Vec<Frame>, fault: Option<Armed>) -> Result<(), Ended> {
        match fault {
            Some(fault) => self.strike_reply(fault, Delivered::Nothing, &reply).await,
            None => {
                reply.iter().for_each(|frame| self.client.writer.push(frame));
                Ok(())
            }
        }
    }

    /// What a client is told without asking the database. It is let in while there is none; its requests queue.
    fn known_parameters(&self) -> Option<Vec<Frame>> {
        let proxy = self.target.proxy;
        if let Some(key) = &self.assigned.to {
            return proxy.pool.told(key).map(|told| told.to_vec());
        }
        let asked = self.assigned.startup.parameters.iter();
        let known = proxy.settings().parameters.clone()?;
        Some(known.into_iter().chain(asked.map(|(name, value)| parameter_status(name, value))).collect())
    }

    async fn relay(&mut self) -> Ended {
        loop {
            match self.step().await {
                Ok(()) => {}
                Err(ended) => return ended,
            }
        }
    }

    async fn step(&mut self) -> Result<(), Ended> {
        if !self.target.proxy.is_answering() {
            return tokio::select! {
                biased;
                command = self.commands.recv() => self.obey(command),
                () = self.target.proxy.answers() => Ok(()),
            };
        }
        match self.next().await {
            Next::Command(command) => self.obey(command),
            Next::FromClient(Ok(Some(frame))) => self.client_sent(frame).await,
            Next::FromClient(Ok(None)) => Err(Ended::quietly(Closed::ByClient)),
            Next::FromClient(Err(error)) if error.kind() == std::io::ErrorKind::InvalidData => {
                Err(Ended::quietly(Closed::ProtocolViolation))
            }
            Next::FromClient(Err(_)) | Next::SentToClient(Err(_)) => Err(Ended::quietly(Closed::ByClient)),
            Next::FromBackend(Ok(Some(frame))) => self.backend_sent(frame).await,
            Next::FromBackend(Ok(None) | Err(_)) | Next::SentToBackend(Err(_)) => self.backend_lost().await,
            Next::SentToClient(Ok(())) | Next::SentToBackend(Ok(())) => Ok(()),
            Next::TooOld => Err(Ended::quietly(Closed::TimedOut)),
        }
    }

    /// Waits for whatever comes first. Giving the others up loses nothing.
    async fn next(&mut self) -> Next {
        let idle = self.is_idle() && self.client.writer.is_empty();
        let too_old = self.target.proxy.passed(self.opened, |limits| limits.client_life);
        let too_idle = self.target.proxy.passed(self.last_traffic, |limits| limits.idle_client_timeout);
        let Wire { reader: client_reader, writer: client_writer, .. } = &mut self.client;
        let mut backend = self.database.as_mut().map(|database| &mut database.wire);
        let (client_full, client_waits) = (client_writer.is_full(), !client_writer.is_empty());
        let backend_full = backend.as_ref().is_some_and(|backend| backend.writer.is_full());
        let backend_waits = backend.as_ref().is_some_and(|backend| !backend.writer.is_empty());
        let (backend_reader, backend_writer) = match &mut backend {
            Some(Wire { reader, writer, .. }) => (Some(reader), Some(writer)),
            None => (None, None),
        };
        let from_backend = async {
            match backend_reader {
                Some(reader) => reader.frame().await,
                None => std::future::pending().await,
            }
        };
        let to_backend = async {
            match backend_writer {
                Some(writer) => writer.send_some().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            command = self.commands.recv() => Next::Command(command),
            sent = client_writer.send_some(), if client_waits => Next::SentToClient(sent),
            sent = to_backend, if backend_waits => Next::SentToBackend(sent),
            frame = from_backend, if !client_full => Next::FromBackend(frame),
            frame = client_reader.frame(), if !backend_full => Next::FromClient(frame),
            () = too_old => Next::TooOld,
            () = too_idle, if idle => Next::TooOld,
        }
    }

    fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.status == b'I' && !self.waited_for && !self.unsynced
    }

    fn obey(&mut self, command: Option<Command>) -> Result<(), Ended> {
        match command {
            Some(Command::CutIfIdle) if self.is_idle() => Err(Ended::quietly(Closed::Cut)),
            Some(Command::Move(_)) if !self.is_idle() => Err(Ended::quietly(Closed::BackendLost)),
            Some(Command::Move(_)) if self.database.is_some() => {
                self.let_go();
                self.assigned.obey(command)
            }
            command => self.assigned.obey(command),
        }
    }

    async fn client_sent(&mut self, frame: Frame) -> Result<(), Ended> {
        self.last_traffic = self.target.proxy.clock.monotonic();
        if frame.tag == b'X' {
            if let Some(database) = &mut self.database {
                let backend = &mut database.wire;
                backend.writer.push(&terminate());
                // It would end on its own when the connection closes, so nothing waits for a server that does not read.
                tokio::select! {
                    biased;
                    _ = self.commands.recv() => {}
                    _ = backend.writer.send() => {}
                }
            }
            return Err(Ended::quietly(Closed::ByClient));
        }
        let preceding = std::mem::replace(&mut self.received, ClientMessage::of(frame.tag));
        self.meter.received(frame.tag, self.last_traffic);
        if !self.waited_for {
            self.waited_for = true;
            self.target.proxy.log.round_trip();
        }
        if self.discarding {
            if frame.tag == b'S' {
                self.discarding = false;
                self.answered_here();
            }
            return Ok(());
        }
        if self.database.is_none()
            && let Err(error) = self.borrow(&frame).await?
        {
            self.client.writer.push(&error);
            self.discarding = frame.tag != b'Q' && frame.tag != b'S';
            if !self.discarding {
                self.answered_here();
            }
            return Ok(());
        }
        let Some(database) = &mut self.database else { return Ok(()) };
        // While the server waits for data to copy it takes no notice of a Sync.
        let ignored = frame.tag == b'S' && self.copying > 0;
        let Passed { frame: passed, before, executed, pin } = match ignored {
            true => Passed { frame: frame.clone(), before: Vec::new(), executed: None, pin: None },
            false => self.prepared.pass(&frame, &mut database.statements),
        };
        for statement in &before {
            database.wire.writer.push(statement);
            database.wire.writer.push(&sync());
            self.pending.push_back(OWN);
        }
        let handed_on = self.strike_request(&frame, &passed, preceding).await?;
        let Target { proxy, id: session, .. } = self.target;
        if let Some(sql) = executed {
            proxy.log.record(Event::Statement { session, sql });
        }
        self.meter.passed_on(&*proxy.clock);
        if let Some(database) = &mut self.database {
            if !handed_on {
                database.wire.writer.push(&passed);
            }
            if let Some(reason) = pin.filter(|_| self.pin.is_none()) {
                self.pin = Some(reason);
                database.pinned = Some(Present::new(&proxy.meters.pinned));
                proxy.log.record(Event::Pinned { session, reason });
            }
        }
        match frame.tag {
            b'S' if ignored => {}
            b'Q' | b'S' | b'F' => {
                self.unsynced = false;
                self.pending.push_back(frame.tag);
            }
            b'c' | b'f' => self.copying -= 1,
            b'P' | b'B' | b'D' | b'E' | b'C' | b'H' => self.unsynced = true,
            _ => {}
        }
        Ok(())
    }
}

//! A client relayed frame by frame to one database session, which may be replaced while nothing is under way.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::mpsc::UnboundedReceiver;

use super::backend::Backend;
use super::event::{Closed, Event};
use super::fault::{ClientMessage, Delivered};
use super::in_force::Armed;
use super::limits::Admission;
use super::login::LoggedIn;
use super::metrics::Meter;
use super::postgres::{Startup, backend_key, parameter_status, ready_for_query, terminate};
use super::prepared::Prepared;
use super::session::{Command, Ended};
use super::strike::Target;
use super::wire::{Frame, Wire};
use faults::Aimed;

mod borrow;
mod farewell;
mod faults;

/// A client that is logged in.
pub(super) struct Session<'p> {
    target: Target<'p>,
    commands: &'p mut UnboundedReceiver<Command>,
    client: Wire,
    backend: Option<Wire>,
    /// The key of that database session.
    cancel_key: Bytes,
    /// Where its database session is, or will be opened.
    assigned: Option<Backend>,
    startup: Startup,
    prepared: Prepared,
    /// As in the last ReadyForQuery: idle, in a transaction, in a failed one.
    status: u8,
    /// Requests that will end with a ReadyForQuery.
    pending: VecDeque<u8>,
    /// What the server has asked of data to copy, less what the client has sent the end of.
    copying: isize,
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
            backend: None,
            cancel_key: Bytes::new(),
            assigned,
            startup,
            prepared: Prepared::default(),
            status: b'I',
            pending: VecDeque::new(),
            copying: 0,
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
        let known = self.target.proxy.settings().parameters.clone();
        let parameters = match (&self.assigned, known) {
            // New clients are let in while there is no database; their requests queue.
            (None, Some(known)) => {
                let asked = self.startup.parameters.iter();
                known.into_iter().chain(asked.map(|(name, value)| parameter_status(name, value))).collect()
            }
            _ => match self.borrow().await? {
                Ok(parameters) => {
                    self.target.proxy.settings().parameters = Some(parameters.clone());
                    parameters
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
        let user = self.startup.user.clone();
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
        let mut backend = self.backend.as_mut();
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
        self.pending.is_empty() && self.status == b'I' && !self.waited_for
    }

    fn obey(&mut self, command: Option<Command>) -> Result<(), Ended> {
        match command {
            None => Err(Ended::quietly(Closed::Shutdown)),
            Some(Command::Cut(how)) => Err(Ended(Closed::Cut, how)),
            Some(Command::FailOver(how)) => Err(Ended(Closed::Failover, how)),
            Some(Command::CutIfIdle) if self.is_idle() => Err(Ended::quietly(Closed::Cut)),
            Some(Command::CutIfIdle) => Ok(()),
            Some(Command::Offer(backend)) => {
                self.assigned.get_or_insert(backend);
                Ok(())
            }
            Some(Command::Move(_)) if !self.is_idle() => Err(Ended::quietly(Closed::BackendLost)),
            Some(Command::Move(backend)) => {
                self.assigned = backend;
                self.backend = None;
                Ok(())
            }
        }
    }

    async fn client_sent(&mut self, frame: Frame) -> Result<(), Ended> {
        self.last_traffic = self.target.proxy.clock.monotonic();
        if frame.tag == b'X' {
            if let Some(backend) = &mut self.backend {
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
        let before = std::mem::replace(&mut self.received, ClientMessage::of(frame.tag));
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
        if self.backend.is_none()
            && let Err(error) = self.borrow().await?
        {
            self.client.writer.push(&error);
            self.discarding = frame.tag != b'Q' && frame.tag != b'S';
            if !self.discarding {
                self.answered_here();
            }
            return Ok(());
        }
        let handed_on = self.strike_request(&frame, before).await?;
        // Not before: a new database session is told the statements known so far.
        if let Some(sql) = self.prepared.note(&frame) {
            self.target.proxy.log.record(Event::Statement { session: self.target.id, sql });
        }
        self.meter.passed_on(&*self.target.proxy.clock);
        if let Some(backend) = &mut self.backend
            && !handed_on
        {
            backend.writer.push(&frame);
        }
        match frame.tag {
            // The server takes no notice of it.
            b'S' if self.copying > 0 => {}
            b'Q' | b'S' | b'F' => self.pending.push_back(frame.tag),
            b'c' | b'f' => self.copying -= 1,
            _ => {}
        }
        Ok(())
    }

    /// A request ended without the database: no transaction is open.
    fn answered_here(&mut self) {
        self.client.writer.push(&ready_for_query(b'I'));
        self.answered();
    }

    fn answered(&mut self) {
        self.waited_for = false;
        self.last_traffic = self.target.proxy.clock.monotonic();
        self.meter.answered(self.last_traffic);
        self.target.proxy.log.record(Event::Answered(self.target.id));
    }

    async fn backend_sent(&mut self, frame: Frame) -> Result<(), Ended> {
        if frame.tag == b'E' && self.is_idle() {
            // Its last words, and none of the client's business.
            self.let_go();
            return Ok(());
        }
        if self.is_aimed_at_reply() {
            return self.withhold(frame).await;
        }
        self.client.writer.push(&frame);
        self.take_note(&frame);
        Ok(())
    }

    /// Of an answer on its way to the client.
    fn take_note(&mut self, frame: &Frame) {
        if frame.tag == b'Z' {
            self.status = frame.body.first().copied().unwrap_or(b'I');
            self.meter.in_transaction(self.status != b'I');
            self.pending.pop_front();
            self.aim_at_next();
            if self.pending.is_empty() {
                self.answered();
            }
        }
        match frame.tag {
            b'G' => {
                self.copying += 1;
                // The server takes no notice of the Sync behind a statement that copies from the client: another follows
                // the data.
                self.pending.pop_front_if(|tag| *tag == b'S');
            }
            b'E' | b'Z' => self.copying = 0,
            _ => {}
        }
    }

    async fn backend_lost(&mut self) -> Result<(), Ended> {
        if self.is_idle() {
            self.let_go();
            return Ok(());
        }
        // What it still said reaches the client first, if the client reads.
        self.held.drain(..).for_each(|frame| self.client.writer.push(&frame));
        loop {
            let command = tokio::select! {
                biased;
                command = self.commands.recv() => command,
                _ = self.client.writer.send() => return Err(Ended::quietly(Closed::BackendLost)),
            };
            self.obey(command)?;
        }
    }

    fn let_go(&mut self) {
        self.backend = None;
        self.target.proxy.log.record(Event::BackendLost(self.target.id));
    }
}

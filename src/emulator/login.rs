//! A client from its first byte to the end of its login.

use std::io;

use tokio::net::TcpStream;

use super::event::Event;
use super::fault::{ClientMessage, Delivered, Kind, Message, Point};
use super::iam::verify;
use super::in_force::Armed;
use super::limits::Admission;
use super::postgres::{Opening, Refusal, Startup, authentication};
use super::proxy::User;
use super::scram::{Challenge, Verifier};
use super::session::Ended;
use super::strike::{Blow, Target, Withheld};
use super::wire::{Frame, Wire};
use crate::secret::Secret;

/// A client that has proved who it is and waits to be told.
pub(super) struct LoggedIn {
    pub(super) wire: Wire,
    pub(super) startup: Startup,
    pub(super) encrypted: bool,
    pub(super) admission: Admission,
    /// What it is to be told first.
    pub(super) welcome: Vec<Frame>,
    /// What the end of the login meets.
    pub(super) fault: Option<Armed>,
}

/// Why a client is not logged in.
pub(super) enum NotLoggedIn {
    /// It was told why.
    Refused,
    /// It hung up, or sent what nobody understands.
    Gone,
    /// A fault ended it.
    Struck(Ended),
}

impl From<io::Error> for NotLoggedIn {
    fn from(_: io::Error) -> Self {
        NotLoggedIn::Gone
    }
}

impl From<Ended> for NotLoggedIn {
    fn from(ended: Ended) -> Self {
        NotLoggedIn::Struck(ended)
    }
}

/// Takes a client through TLS and authentication.
pub(super) async fn login(stream: TcpStream, target: Target<'_>) -> Result<LoggedIn, NotLoggedIn> {
    // Who says nothing meets nothing.
    if target.socket.peek(&mut [0]).await? == 0 {
        return Err(NotLoggedIn::Gone);
    }
    let fault = target.meet(Message::Startup, None);
    let mut talk = Talk { target, wire: Wire::new(stream), encrypted: false, received: None, fault };
    let startup = match talk.open().await? {
        Opening::Startup(startup) => startup,
        Opening::Refused(refusal) => return Err(talk.refuse(&refusal, None).await),
        Opening::Tls | Opening::Gss | Opening::Cancel => return Err(NotLoggedIn::Gone),
    };
    let proxy = target.proxy;
    let admission = match proxy.gate.admit(proxy.clock.monotonic()) {
        Ok(admission) => admission,
        Err(refusal) => return Err(talk.refuse(&refusal, Some(startup.user)).await),
    };
    let encrypted = talk.encrypted;
    match talk.authenticate(&startup.user).await {
        Ok(welcome) => Ok(LoggedIn { wire: talk.wire, startup, encrypted, admission, welcome, fault: talk.fault }),
        Err(Denied::Refused(refusal)) => {
            // It may come again as soon as it is told.
            drop(admission);
            Err(talk.refuse(&refusal, Some(startup.user)).await)
        }
        Err(Denied::Gone) => Err(NotLoggedIn::Gone),
        Err(Denied::Struck(ended)) => Err(NotLoggedIn::Struck(ended)),
    }
}

enum Denied {
    Refused(Refusal),
    Gone,
    Struck(Ended),
}

impl From<io::Error> for Denied {
    fn from(_: io::Error) -> Self {
        Denied::Gone
    }
}

impl From<Ended> for Denied {
    fn from(ended: Ended) -> Self {
        Denied::Struck(ended)
    }
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Denied::Refused(refusal)
    }
}

/// A conversation before the end of its login.
struct Talk<'p> {
    target: Target<'p>,
    wire: Wire,
    encrypted: bool,
    received: Option<ClientMessage>,
    fault: Option<Armed>,
}

impl Talk<'_> {
    /// Reads opening packets until one is a startup, going over to TLS when asked.
    async fn open(&mut self) -> Result<Opening, NotLoggedIn> {
        if let Some(fault) = self.fault.take_if(|fault| is_before(fault)) {
            // A connection that is closed with bytes unread ends with RST.
            if fault.kind != Kind::StopReading && !self.wire.reader.fill().await? {
                return Err(NotLoggedIn::Gone);
            }
            self.strike(fault, 0).await?;
        }
        loop {
            let packet = self.wire.reader.packet().await?.ok_or(NotLoggedIn::Gone)?;
            let opening = Opening::parse(&packet).ok_or(NotLoggedIn::Gone)?;
            self.target.proxy.answers().await;
            match opening {
                Opening::Gss if !self.encrypted => {
                    self.received = Some(ClientMessage::Other);
                    self.wire.writer.push_raw(b"N");
                    self.wire.writer.send().await?;
                }
                Opening::Tls if !self.encrypted => self.encrypt().await?,
                Opening::Tls | Opening::Gss | Opening::Cancel => return Err(NotLoggedIn::Gone),
                opening => {
                    // Without TLS no certificate is shown.
                    self.fault.take_if(|fault| fault.kind.is_certificate());
                    self.strike_within(packet.len()).await?;
                    self.received = Some(ClientMessage::Startup);
                    return Ok(opening);
                }
            }
        }
    }

    async fn encrypt(&mut self) -> Result<(), NotLoggedIn> {
        self.received = Some(ClientMessage::SslRequest);
        self.wire.writer.push_raw(b"S");
        self.wire.writer.send().await?;
        let identity = &self.target.proxy.identity;
        let acceptor = match self.fault.take_if(|fault| fault.kind.is_certificate()) {
            None => &identity.acceptor,
            Some(fault) => {
                let strike = fault.strike(self.target.id, self.received, Delivered::Nothing);
                self.target.proxy.log.record(Event::Struck(strike));
                if fault.kind == Kind::OtherHost { &identity.other_host } else { &identity.unknown_issuer }
            }
        };
        // What came in clear behind the wish for TLS must not pass for what came encrypted.
        let wire = std::mem::replace(&mut self.wire, Wire::new(tokio::io::empty()));
        let plain = wire.into_stream().ok_or(NotLoggedIn::Gone)?;
        let handshake = acceptor.accept(plain).await;
        self.wire = Wire::new(handshake.inspect_err(|_| self.target.proxy.meters.failed())?);
        self.encrypted = true;
        Ok(())
    }

    /// What a client is told that has proved who it is.
    async fn authenticate(&mut self, user: &str) -> Result<Vec<Frame>, Denied> {
        if self.target.proxy.requires_tls && !self.encrypted {
            return Err(Refusal::tls_required().into());
        }
        match self.target.proxy.user(user) {
            None => Err(Refusal::unknown_user(user).into()),
            Some(User::Iam) if !self.encrypted => Err(Refusal::iam_without_tls().into()),
            Some(User::Iam) => {
                self.say(&authentication(3, &[])).await?;
                let answer = self.last_answer().await?;
                let token = answer.texts().next().unwrap_or_default();
                let token = Secret::from(String::from_utf8_lossy(&token).into_owned());
                let proxy = self.target.proxy;
                proxy.gate.admit_token(proxy.clock.monotonic())?;
                let keys = proxy.settings().access_keys.clone();
                let verdict = verify(token.expose(), user, &proxy.audience, &keys, proxy.clock.wall());
                verdict.map_err(|reason| Refusal::token(user, reason))?;
                Ok(vec![authentication(0, &[])])
            }
            Some(User::Password(verifier)) => self.scram(user, verifier).await,
        }
    }

    async fn scram(&mut self, user: &str, verifier: Verifier) -> Result<Vec<Frame>, Denied> {
        self.say(&authentication(10, b"SCRAM-SHA-256\0\0")).await?;
        let first = self.answer().await?;
        self.received = Some(ClientMessage::SaslInitialResponse);
        let unsupported = || Denied::from(Refusal::unsupported_authentication());
        let mechanism = first.texts().next().ok_or_else(unsupported)?;
        // The mechanism, its terminator and the length of what follows.
        let text = first.body.get(mechanism.len() + 5..).ok_or_else(unsupported)?;
        let text = std::str::from_utf8(text).map_err(|_| unsupported())?;
        if mechanism.as_ref() != b"SCRAM-SHA-256" {
            return Err(unsupported());
        }
        let challenge = Challenge::new(text, verifier).ok_or_else(unsupported)?;
        self.say(&authentication(11, challenge.message.as_bytes())).await?;
        let last = self.last_answer().await?;
        let proof = std::str::from_utf8(&last.body).ok().and_then(|proof| challenge.check(proof));
        let signature = proof.ok_or_else(|| Refusal::password(user))?;
        Ok(vec![authentication(12, signature.as_bytes()), authentication(0, &[])])
    }

    /// Sends a question; the first one is the reply to the startup packet.
    async fn say(&mut self, frame: &Frame) -> Result<(), Denied> {
        self.reply(frame).await?;
        Ok(self.wire.writer.send().await?)
    }

    /// What is said may meet a fault.
    async fn reply(&mut self, frame: &Frame) -> Result<(), Ended> {
        let Some(fault) = self.fault.take() else {
            self.wire.writer.push(frame);
            return Ok(());
        };
        let (withheld, before) = fault.reply(std::slice::from_ref(frame));
        let blow = Blow { received: self.received, delivered: Delivered::Nothing, before };
        self.target.strike(fault, blow, &mut self.wire, withheld).await
    }

    /// Tells a client why it is not let in.
    async fn refuse(&mut self, refusal: &Refusal, user: Option<String>) -> NotLoggedIn {
        let Refusal { code, limit, token, .. } = refusal;
        let Target { id, proxy, .. } = self.target;
        // The class of those who are not who they say they are, or do not say it as they must.
        if code.starts_with("28") {
            proxy.meters.failed();
        }
        proxy.log.record(Event::LoginRefused { session: id, user, code, limit: *limit, token: *token });
        if let Err(ended) = self.reply(&refusal.frame("FATAL")).await {
            return NotLoggedIn::Struck(ended);
        }
        // If the client has gone it will not read this.
        let _ = self.wire.writer.finish().await;
        NotLoggedIn::Refused
    }

    /// The message that ends the authentication.
    async fn last_answer(&mut self) -> Result<Frame, Denied> {
        self.fault = self.target.meet(Message::Login, None);
        if let Some(fault) = self.fault.take_if(|fault| is_before(fault)) {
            self.strike(fault, 0).await?;
        }
        let answer = self.answer().await?;
        self.strike_within(answer.body.len()).await?;
        self.received = Some(ClientMessage::Password);
        Ok(answer)
    }

    async fn answer(&mut self) -> Result<Frame, Denied> {
        match self.wire.reader.frame().await? {
            Some(frame) if frame.tag == b'p' => {
                self.target.proxy.answers().await;
                Ok(frame)
            }
            _ => Err(Denied::Gone),
        }
    }

    /// Strikes if the fault is for a point within this message.
    async fn strike_within(&mut self, length: usize) -> Result<(), Ended> {
        let within = |fault: &mut Armed| !matches!(fault.point, Point::BeforeReply | Point::MidReply);
        match self.fault.take_if(within) {
            Some(fault) => self.strike(fault, length).await,
            None => Ok(()),
        }
    }

    async fn strike(&mut self, fault: Armed, length: usize) -> Result<(), Ended> {
        let blow = Blow { received: self.received, delivered: Delivered::Nothing, before: 0 };
        self.target.strike(fault, blow, &mut self.wire, Withheld::Kept(length)).await
    }
}

/// Whether it strikes before anything of the message has come. A message goes on in pieces when it is there.
fn is_before(fault: &Armed) -> bool {
    fault.point == Point::BeforeRequest && !fault.kind.is_certificate() && !matches!(fault.kind, Kind::Drip { .. })
}

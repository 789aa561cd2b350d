//! Faults at points of the protocol, one by one or at random from a seed: what they are called.

use std::time::Duration;

use super::SessionId;

/// The part of a conversation a fault waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Message {
    /// The startup packet. Its reply is the question for a password; before it is all that TLS needs.
    Startup,
    /// The last message of the authentication. Its reply is all up to the first ReadyForQuery.
    Login,
    /// A statement being prepared.
    Parse,
    /// Statements being executed, prepared or as text, of neither of the two kinds below.
    Execute,
    /// The same, with a text that begins with `BEGIN` or `START TRANSACTION` and commits nothing.
    Begin,
    /// The same, with a statement in the text that is `COMMIT` or `END`.
    Commit,
}

impl Message {
    /// All of them.
    pub const ALL: [Message; 6] =
        [Message::Startup, Message::Login, Message::Parse, Message::Execute, Message::Begin, Message::Commit];
}

/// Where a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Point {
    /// Before anything of the message is taken: the database gets nothing of it. Before a startup packet: at the first
    /// byte of the connection.
    BeforeRequest,
    /// In the middle of the message: the database gets the first half of its bytes.
    MidRequest,
    /// After the message and before the Sync behind it: the database works on it and commits nothing, except for a
    /// prepared statement that commits by itself, which is done: a COMMIT, or one that no transaction may hold, such as
    /// VACUUM. Where no Sync follows, as with a text of statements, this is [`MidRequest`](Self::MidRequest).
    BeforeSync,
    /// After the whole request: the database has done it and has answered, the client has no byte of the answer. Where the
    /// database waits for the client first, to copy data or after a Flush, the answer is what it says before.
    BeforeReply,
    /// The same, and the client has the first half of the answer.
    MidReply,
}

impl Point {
    /// All of them, in the order of the protocol.
    pub const ALL: [Point; 5] =
        [Point::BeforeRequest, Point::MidRequest, Point::BeforeSync, Point::BeforeReply, Point::MidReply];
}

/// What happens to the connection there. A port that refuses has no connection: that is
/// [`refuse_connections`](super::RdsProxyEmulator::refuse_connections).
///
/// It has ends: a failover other than [`Existing::Stay`](super::Existing::Stay) cuts who is held in a request or at the last
/// reply of a login, and until its last message has come a login takes a minute of the emulator's clock at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// It is closed with FIN.
    Close,
    /// It is closed with RST.
    Reset,
    /// The client is told FATAL 57P01, "terminating connection due to administrator command", and it is closed.
    AdminShutdown,
    /// The client is told FATAL 57P02, as after a crash of another server process, and it is closed.
    CrashShutdown,
    /// The client is told FATAL 57P03, "the database system is shutting down", and it is closed.
    CannotConnectNow,
    /// Nothing is read from it any more, nor answered; it stays open until the client closes it.
    StopReading,
    /// What comes is read and thrown away, nothing is answered; it stays open until the client closes it.
    NeverAnswer,
    /// It goes on after a time between these two, the same for the same seed.
    Delay {
        /// At least this long.
        least: Duration,
        /// At most this long.
        most: Duration,
    },
    /// It is closed with FIN at once, and what is left of the message reaches the database after a time between these two,
    /// the same for the same seed: a packet that comes late, when nobody waits for it any more. At a reply, or where the
    /// proxy keeps the message for itself, it is as [`Close`](Self::Close).
    Late {
        /// At least this long.
        least: Duration,
        /// At most this long.
        most: Duration,
    },
    /// What is left of the message, or of its reply, goes on in pieces.
    Drip {
        /// Bytes in a piece; at least one.
        bytes: usize,
        /// The pause after each.
        every: Duration,
    },
    /// TLS shows a certificate of an authority nobody knows. Only where TLS begins: it meets
    /// [`Message::Startup`], whatever the point, and no other message.
    UnknownIssuer,
    /// TLS shows a certificate for another host. As [`UnknownIssuer`](Self::UnknownIssuer) otherwise.
    OtherHost,
}

impl Kind {
    /// Whether it takes the place of the certificate.
    pub(super) fn is_certificate(self) -> bool {
        matches!(self, Kind::UnknownIssuer | Kind::OtherHost)
    }

    /// Whether the client is told something before the end.
    pub(super) fn is_fatal(self) -> bool {
        matches!(self, Kind::AdminShutdown | Kind::CrashShutdown | Kind::CannotConnectNow)
    }

    pub(super) fn fits(self, message: Message) -> bool {
        !self.is_certificate() || message == Message::Startup
    }
}

/// A fault: what, where, and how often.
///
/// A request, which ends with a Sync or is a text of statements, meets one fault at a time: until that has struck, the
/// other messages of the request meet none, and no fault counts them.
///
/// ```
/// use rds_proxy_pool::emulator::{Fault, Kind, Message, Point};
///
/// // The third COMMIT is done by the database, and the connection ends before the client is told.
/// let lost_answer = Fault::new(Message::Commit, Point::BeforeReply, Kind::Reset).skip(2);
/// // Each INSERT into this table is received half.
/// let cut_off = Fault::new(Message::Execute, Point::MidRequest, Kind::Close).text("INSERT INTO orders").times(u64::MAX);
/// assert_ne!(lost_answer, cut_off);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub(super) message: Message,
    pub(super) point: Point,
    pub(super) kind: Kind,
    pub(super) session: Option<SessionId>,
    pub(super) text: Option<String>,
    pub(super) skip: u64,
    pub(super) times: u64,
}

impl Fault {
    /// A fault that strikes once, at the next such message of any client.
    pub fn new(message: Message, point: Point, kind: Kind) -> Self {
        Fault { message, point, kind, session: None, text: None, skip: 0, times: 1 }
    }

    /// Only in this session.
    pub fn session(mut self, session: SessionId) -> Self {
        self.session = Some(session);
        self
    }

    /// Only at statements whose text contains this.
    pub fn text(mut self, part: impl Into<String>) -> Self {
        self.text = Some(part.into());
        self
    }

    /// Lets this many such messages pass first: none by default.
    pub fn skip(mut self, messages: u64) -> Self {
        self.skip = messages;
        self
    }

    /// Strikes at this many messages: one by default.
    pub fn times(mut self, messages: u64) -> Self {
        self.times = messages;
        self
    }
}

/// Faults at random: the same ones, at the same messages, for the same seed and the same order of messages.
///
/// Clients that work at the same time send their messages in an order of their own; then the faults are the same ones and
/// it is open which client meets them.
///
/// ```
/// use rds_proxy_pool::emulator::{Kind, Message, Schedule};
///
/// let schedule = Schedule::new(7).one_in(20).messages([Message::Execute, Message::Commit]).kinds([Kind::Close, Kind::Reset]);
/// assert_eq!(schedule, schedule.clone());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    pub(super) seed: u64,
    pub(super) one_in: u32,
    pub(super) messages: Vec<Message>,
    pub(super) points: Vec<Point>,
    pub(super) kinds: Vec<Kind>,
    pub(super) at_most: u64,
}

impl Schedule {
    /// Closes and resets connections at one in ten messages of all kinds, at all points.
    pub fn new(seed: u64) -> Self {
        Schedule {
            seed,
            one_in: 10,
            messages: Message::ALL.into(),
            points: Point::ALL.into(),
            kinds: vec![Kind::Close, Kind::Reset],
            at_most: u64::MAX,
        }
    }

    /// One in this many messages is struck, on average; 1 is all of them. 0 counts as 1.
    pub fn one_in(mut self, messages: u32) -> Self {
        self.one_in = messages.max(1);
        self
    }

    /// Only at these messages.
    pub fn messages(mut self, messages: impl IntoIterator<Item = Message>) -> Self {
        self.messages = messages.into_iter().collect();
        self
    }

    /// Only at these points.
    pub fn points(mut self, points: impl IntoIterator<Item = Point>) -> Self {
        self.points = points.into_iter().collect();
        self
    }

    /// Only these kinds.
    pub fn kinds(mut self, kinds: impl IntoIterator<Item = Kind>) -> Self {
        self.kinds = kinds.into_iter().collect();
        self
    }

    /// Strikes this often at most.
    pub fn at_most(mut self, faults: u64) -> Self {
        self.at_most = faults;
        self
    }
}

/// A message of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClientMessage {
    /// The wish for TLS.
    SslRequest,
    /// The startup packet.
    Startup,
    /// The first step of SCRAM.
    SaslInitialResponse,
    /// A password or a token, or the last step of SCRAM.
    Password,
    /// A text of statements.
    Query,
    /// A statement to prepare.
    Parse,
    /// Values for one.
    Bind,
    /// A question about one.
    Describe,
    /// The order to run one.
    Execute,
    /// The end of one.
    Close,
    /// The wish for answers.
    Flush,
    /// The end of a request.
    Sync,
    /// Data of a COPY, or its end.
    Copy,
    /// Any other.
    Other,
}

impl ClientMessage {
    pub(super) fn of(tag: u8) -> Self {
        match tag {
            b'p' => ClientMessage::Password,
            b'Q' => ClientMessage::Query,
            b'P' => ClientMessage::Parse,
            b'B' => ClientMessage::Bind,
            b'D' => ClientMessage::Describe,
            b'E' => ClientMessage::Execute,
            b'C' => ClientMessage::Close,
            b'H' => ClientMessage::Flush,
            b'S' => ClientMessage::Sync,
            b'd' | b'c' | b'f' => ClientMessage::Copy,
            _ => ClientMessage::Other,
        }
    }
}

/// How much of a struck message its database has been given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Delivered {
    /// No byte of it; so it is with all messages of a login, which the proxy answers itself.
    Nothing,
    /// The first half of its bytes.
    Half,
    /// All of it, without the Sync behind; see [`Point::BeforeSync`] for what that commits.
    AllButSync,
    /// All of it, and the database has answered.
    Answered,
}

/// A fault that has struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Strike {
    /// Whom.
    pub session: SessionId,
    /// At which message.
    pub message: Message,
    /// Where in it.
    pub point: Point,
    /// How.
    pub kind: Kind,
    /// The last message the proxy had received in full, if any.
    pub received: Option<ClientMessage>,
    /// What the database had been given of the struck one.
    pub delivered: Delivered,
    /// Which fault it was: [`Injected`] knows its own.
    pub(super) fault: u64,
}

//! A client that sees every byte: PostgreSQL's protocol without TLS, logged in by SCRAM.

use std::io::{ErrorKind, Result};
use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How many bytes a message has before its body.
const HEAD: usize = 5;
/// How long nothing has to come to count as nothing.
const SILENCE: Duration = Duration::from_millis(50);

/// A connection, logged in or not.
pub(super) struct Raw {
    stream: TcpStream,
    buffer: BytesMut,
    scram: Option<ScramSha256>,
    /// Sending has taken the news of a reset, which the system tells once.
    reset: bool,
}

/// What a client has seen of a reply.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The letter and the length of each message that came whole.
    pub(super) messages: Vec<(char, usize)>,
    /// How many bytes came, those of a message that is not whole included.
    pub(super) bytes: usize,
    /// The SQLSTATE of an error among them.
    pub(super) code: Option<String>,
}

/// How the wait for a reply ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With a message that has to be answered.
    Answered,
    Fin,
    Rst,
}

impl Raw {
    pub(super) async fn connect(port: u16) -> Result<Raw> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.set_nodelay(true)?;
        Ok(Raw { stream, buffer: BytesMut::new(), scram: None, reset: false })
    }

    /// Sends what `encode` writes; that nobody listens any more is for the reader to tell.
    pub(super) async fn send(&mut self, encode: impl FnOnce(&mut BytesMut) -> Result<()>) {
        let mut bytes = BytesMut::new();
        encode(&mut bytes).expect("the test's own messages can be encoded");
        let sent = self.stream.write_all(&bytes).await;
        self.reset |= sent.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset);
    }

    /// The startup packet.
    pub(super) async fn send_startup(&mut self, user: &str, database: &str) {
        let parameters = [("user", user), ("database", database)];
        self.send(|buffer| frontend::startup_message(parameters, buffer)).await;
    }

    /// The last message of the login; the one before it must have been asked for.
    pub(super) async fn send_login(&mut self, password: &str) {
        let client = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        self.send(|buffer| frontend::sasl_initial_response(SCRAM_SHA_256, client.message(), buffer)).await;
        let scram = self.scram.insert(client);
        let challenge = next(&mut self.stream, &mut self.buffer).await;
        let (_, challenge) = challenge.expect("the proxy goes on").expect("with a challenge");
        scram.update(&challenge[4..]).expect("that fits");
        let proof = scram.message().to_vec();
        self.send(|buffer| frontend::sasl_response(&proof, buffer)).await;
    }

    /// Reads up to a message that ends a reply, or to the end of the connection.
    pub(super) async fn reply(&mut self) -> (Seen, End) {
        let mut seen = Seen::default();
        loop {
            match next(&mut self.stream, &mut self.buffer).await {
                Ok(Some((tag, body))) => {
                    seen.note(tag, &body);
                    // The question for a password, and the end of all else.
                    let asks = tag == b'R' && body.first_chunk() == Some(&10_i32.to_be_bytes());
                    if tag == b'Z' || asks {
                        return (seen, End::Answered);
                    }
                }
                end => {
                    seen.bytes += self.buffer.len();
                    let end = match end {
                        Err(error) if error.kind() == ErrorKind::ConnectionReset => End::Rst,
                        Err(error) => panic!("neither FIN nor RST: {error}"),
                        Ok(_) if self.reset => End::Rst,
                        Ok(_) => End::Fin,
                    };
                    return (seen, end);
                }
            }
        }
    }

    /// Takes this many bytes of a reply; more must not be there, nor the end.
    pub(super) async fn exactly(&mut self, bytes: usize) -> Result<()> {
        while self.buffer.len() < bytes {
            assert_ne!(self.stream.read_buf(&mut self.buffer).await?, 0, "after {} of {bytes}", self.buffer.len());
        }
        assert_eq!(self.buffer.len(), bytes, "more than that came");
        let peeked = SockRef::from(&self.stream).peek(&mut [std::mem::MaybeUninit::uninit()]);
        assert_eq!(peeked.map_err(|error| error.kind()), Err(ErrorKind::WouldBlock), "nothing else came");
        Ok(())
    }

    /// Sends as much as fits in between, and how much that was.
    pub(super) fn send_what_fits(&self, limit: usize) -> usize {
        let chunk = [0; 64 * 1024];
        let mut sent = 0;
        while sent < limit {
            match SockRef::from(&self.stream).send(&chunk) {
                Ok(more) => sent += more,
                Err(_) => break,
            }
        }
        sent
    }

    /// Takes what has come, up to a moment in which nothing comes.
    pub(super) async fn quiet(&mut self) {
        while tokio::time::timeout(SILENCE, self.stream.read_buf(&mut self.buffer)).await.is_ok() {}
    }

    /// Nothing comes for a moment.
    pub(super) async fn nothing_comes(&mut self) {
        let came = tokio::time::timeout(SILENCE, self.stream.read_buf(&mut self.buffer)).await;
        assert!(came.is_err(), "{came:?}");
    }

    /// Ends it with RST.
    pub(super) fn abort(self) {
        SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO)).expect("the socket is there");
    }

    /// Completes when more can be sent.
    pub(super) async fn writable(&self) {
        self.stream.writable().await.expect("the socket is there");
    }
}

impl Seen {
    fn note(&mut self, tag: u8, body: &Bytes) {
        self.messages.push((char::from(tag), HEAD + body.len()));
        self.bytes += HEAD + body.len();
        if tag == b'E' {
            let fields = body.split(|byte| *byte == 0);
            let code = fields.filter_map(|field| field.strip_prefix(b"C")).next().expect("an error has a code");
            self.code = Some(String::from_utf8_lossy(code).into_owned());
        }
    }
}

async fn next(stream: &mut TcpStream, buffer: &mut BytesMut) -> Result<Option<(u8, Bytes)>> {
    loop {
        if let Some(head) = buffer.first_chunk::<HEAD>() {
            let length = 1 + u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            if buffer.len() >= length {
                let mut message = buffer.split_to(length).freeze();
                let tag = message.get_u8();
                message.advance(4);
                return Ok(Some((tag, message)));
            }
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}

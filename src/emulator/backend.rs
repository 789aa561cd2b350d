//! A session on the real database.

use std::io;
use std::net::SocketAddr;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;
use socket2::{SockRef, Socket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::pool::Key;
use super::postgres::{sqlstate, sync};
use super::wire::{Frame, Wire};
use crate::secret::Secret;

/// What a CancelRequest begins with.
const CANCEL: u32 = 1234 << 16 | 5678;

/// The database server behind the emulator, and how to log in there.
///
/// ```
/// use rds_proxy_pool::emulator::Backend;
///
/// let server = Backend::new(([127, 0, 0, 1], 5432)).login("app", "its password on the server");
/// assert!(!format!("{server:?}").contains("password on"));
/// ```
#[derive(Clone, Debug)]
pub struct Backend {
    pub(super) address: SocketAddr,
    login: Option<(String, Secret)>,
}

impl Backend {
    /// A server that lets the client's own user in without a password.
    pub fn new(address: impl Into<SocketAddr>) -> Self {
        Backend { address: address.into(), login: None }
    }

    /// Logs everybody in as `user`, by cleartext password, MD5 or SCRAM as the server asks.
    pub fn login(mut self, user: impl Into<String>, password: impl Into<Secret>) -> Self {
        self.login = Some((user.into(), password.into()));
        self
    }
}

impl PartialEq for Backend {
    fn eq(&self, other: &Self) -> bool {
        let login = |backend: &'_ Backend| {
            backend.login.as_ref().map(|(user, password)| (user.clone(), password.expose().to_owned()))
        };
        self.address == other.address && login(self) == login(other)
    }
}

/// An open session.
pub(super) struct BackendSession {
    pub(super) wire: Wire,
    /// A second handle to its socket, to see whether the server has said something unasked.
    pub(super) socket: Socket,
    /// With which the server stops what runs there.
    pub(super) key: Bytes,
    /// What the server said about itself, in the order it said so.
    pub(super) parameters: Vec<Frame>,
}

/// Why there is no session.
pub(super) enum Unavailable {
    /// The server cannot be reached, or is starting or stopping: it may do better soon.
    ForNow,
    /// It said no.
    Refused(Frame),
}

impl From<io::Error> for Unavailable {
    fn from(_: io::Error) -> Self {
        Unavailable::ForNow
    }
}

impl Backend {
    /// Opens a session as its clients ask for it.
    pub(super) async fn open(&self, key: &Key) -> Result<BackendSession, Unavailable> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let socket = SockRef::from(&stream).try_clone()?;
        let mut wire = Wire::new(stream);
        wire.reader.expect_requests();
        let startup = &key.startup;
        let user = self.login.as_ref().map_or(&startup.user, |(user, _)| user);
        let fixed = [("user", user.as_str()), ("database", startup.database.as_str())];
        let others = startup.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        send(&mut wire, |buffer| frontend::startup_message(fixed.into_iter().chain(others), buffer)).await?;
        self.authenticate(&mut wire, user).await?;

        let (mut parameters, mut key) = (Vec::new(), Bytes::new());
        loop {
            let frame = answer(&mut wire).await?;
            match frame.tag {
                b'S' => parameters.push(frame),
                b'K' => key = frame.body,
                b'Z' => break,
                _ => {}
            }
        }
        Ok(BackendSession { wire, socket, key, parameters })
    }

    /// Asks the server to stop what the session with this key runs; completes when the server has taken note.
    pub(super) async fn cancel(&self, key: &[u8]) -> io::Result<()> {
        let mut stream = TcpStream::connect(self.address).await?;
        let mut request = BytesMut::new();
        request.put_u32(8 + key.len() as u32);
        request.put_u32(CANCEL);
        request.put_slice(key);
        stream.write_all(&request).await?;
        stream.read_to_end(&mut Vec::new()).await.map(drop)
    }

    async fn authenticate(&self, wire: &mut Wire, user: &str) -> Result<(), Unavailable> {
        let password = self.login.as_ref().map_or("", |(_, password)| password.expose());
        let mut scram = None;
        loop {
            let Frame { tag, mut body } = answer(wire).await?;
            if tag != b'R' || body.len() < 4 {
                continue;
            }
            match body.get_i32() {
                0 => return Ok(()),
                3 => send(wire, |buffer| frontend::password_message(password.as_bytes(), buffer)).await?,
                5 => {
                    let salt = body.first_chunk().ok_or(Unavailable::ForNow)?;
                    let hash = md5_hash(user.as_bytes(), password.as_bytes(), *salt);
                    send(wire, |buffer| frontend::password_message(hash.as_bytes(), buffer)).await?;
                }
                10 => {
                    let client = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
                    let first =
                        |buffer: &mut _| frontend::sasl_initial_response(SCRAM_SHA_256, client.message(), buffer);
                    send(wire, first).await?;
                    scram = Some(client);
                }
                11 => {
                    let client = scram.as_mut().ok_or(Unavailable::ForNow)?;
                    client.update(&body)?;
                    send(wire, |buffer| frontend::sasl_response(client.message(), buffer)).await?;
                }
                12 => scram.as_mut().ok_or(Unavailable::ForNow)?.finish(&body)?,
                _ => return Err(Unavailable::ForNow),
            }
        }
    }
}

/// Prepares statements, one by one: one that the server does not accept any more must not stop the others. Whether each is
/// prepared.
pub(super) async fn prepare(wire: &mut Wire, statements: impl Iterator<Item = &Frame>) -> io::Result<Vec<bool>> {
    let mut prepared = Vec::new();
    for statement in statements {
        wire.writer.push(statement);
        wire.writer.push(&sync());
        prepared.push(false);
    }
    wire.writer.send().await?;
    for is_prepared in &mut prepared {
        loop {
            match next(wire).await?.tag {
                b'1' => *is_prepared = true,
                b'Z' => break,
                _ => {}
            }
        }
    }
    Ok(prepared)
}

async fn send(wire: &mut Wire, encode: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    encode(&mut buffer)?;
    wire.writer.push_raw(&buffer);
    wire.writer.send().await
}

/// The next frame during a login; an error ends it.
async fn answer(wire: &mut Wire) -> Result<Frame, Unavailable> {
    let frame = next(wire).await?;
    match (frame.tag, sqlstate(&frame)) {
        // Starting up, shutting down, crashed: what a proxy waits out.
        (b'E', Some(code)) if code.starts_with(b"57P") => Err(Unavailable::ForNow),
        (b'E', _) => Err(Unavailable::Refused(frame)),
        _ => Ok(frame),
    }
}

async fn next(wire: &mut Wire) -> io::Result<Frame> {
    wire.reader.frame().await?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

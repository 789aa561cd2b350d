//! A client from its first byte to the end of its login.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::iam::verify;
use super::postgres::{Opening, Refusal, Startup, authentication};
use super::proxy::{Proxy, User};
use super::scram::Challenge;
use super::wire::{Duplex, Frame, LONGEST_LOGIN_FRAME, Wire};
use crate::secret::Secret;

/// Why a client is not logged in.
pub(super) enum NotLoggedIn {
    /// It was told why, over the connection that is still open.
    Refused { refusal: Refusal, user: Option<String>, wire: Wire },
    /// It hung up, or sent what nobody understands.
    Gone,
}

impl From<io::Error> for NotLoggedIn {
    fn from(_: io::Error) -> Self {
        NotLoggedIn::Gone
    }
}

/// Takes a client through TLS and authentication.
pub(super) async fn login(stream: TcpStream, proxy: &Proxy) -> Result<(Wire, Startup), NotLoggedIn> {
    let (mut wire, opening, encrypted) = open(stream, proxy).await?;
    let startup = match opening {
        Opening::Startup(startup) => startup,
        Opening::Refused(refusal) => return Err(NotLoggedIn::Refused { refusal, user: None, wire }),
        Opening::Tls | Opening::Gss | Opening::Cancel => return Err(NotLoggedIn::Gone),
    };
    match authenticate(&mut wire, &startup.user, encrypted, proxy).await {
        Ok(()) => Ok((wire, startup)),
        Err(Denied::Refused(refusal)) => Err(NotLoggedIn::Refused { refusal, user: Some(startup.user), wire }),
        Err(Denied::Gone) => Err(NotLoggedIn::Gone),
    }
}

/// Reads opening packets until one is a startup, going over to TLS when asked.
async fn open(mut plain: TcpStream, proxy: &Proxy) -> Result<(Wire, Opening, bool), NotLoggedIn> {
    loop {
        let opening = Opening::parse(&packet(&mut plain).await?).ok_or(NotLoggedIn::Gone)?;
        proxy.answers().await;
        match opening {
            Opening::Gss => plain.write_all(b"N").await?,
            Opening::Tls => {
                plain.write_all(b"S").await?;
                let mut encrypted = proxy.identity.acceptor.accept(plain).await?;
                let opening = Opening::parse(&packet(&mut encrypted).await?).ok_or(NotLoggedIn::Gone)?;
                return Ok((Wire::new(encrypted), opening, true));
            }
            Opening::Cancel => return Err(NotLoggedIn::Gone),
            opening => return Ok((Wire::new(plain), opening, false)),
        }
    }
}

async fn packet(stream: &mut (impl Duplex + ?Sized)) -> Result<Bytes, NotLoggedIn> {
    let length = stream.read_u32().await? as usize;
    if !(8..=LONGEST_LOGIN_FRAME).contains(&length) {
        return Err(NotLoggedIn::Gone);
    }
    let mut packet = BytesMut::zeroed(length - 4);
    stream.read_exact(&mut packet).await?;
    Ok(packet.freeze())
}

enum Denied {
    Refused(Refusal),
    Gone,
}

impl From<io::Error> for Denied {
    fn from(_: io::Error) -> Self {
        Denied::Gone
    }
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Denied::Refused(refusal)
    }
}

async fn authenticate(wire: &mut Wire, user: &str, encrypted: bool, proxy: &Proxy) -> Result<(), Denied> {
    if proxy.requires_tls && !encrypted {
        return Err(Refusal::tls_required().into());
    }
    match proxy.user(user) {
        None => Err(Refusal::unknown_user(user).into()),
        Some(User::Iam) if !encrypted => Err(Refusal::iam_without_tls().into()),
        Some(User::Iam) => {
            ask(wire, &authentication(3, &[])).await?;
            let answer = answer(wire).await?;
            proxy.answers().await;
            let token = answer.texts().next().unwrap_or_default();
            let token = Secret::from(String::from_utf8_lossy(&token).into_owned());
            let keys = proxy.settings().access_keys.clone();
            let verdict = verify(token.expose(), user, &proxy.audience, &keys, proxy.clock.wall());
            verdict.map_err(|reason| Refusal::token(user, reason).into())
        }
        Some(User::Password(password)) => scram(wire, user, &password, proxy).await,
    }
}

async fn scram(wire: &mut Wire, user: &str, password: &Secret, proxy: &Proxy) -> Result<(), Denied> {
    ask(wire, &authentication(10, b"SCRAM-SHA-256\0\0")).await?;
    let first = answer(wire).await?;
    proxy.answers().await;
    let unsupported = || Denied::from(Refusal::unsupported_authentication());
    let mechanism = first.texts().next().ok_or_else(unsupported)?;
    // The mechanism, its terminator and the length of what follows.
    let text = first.body.get(mechanism.len() + 5..).ok_or_else(unsupported)?;
    let text = std::str::from_utf8(text).map_err(|_| unsupported())?;
    if mechanism.as_ref() != b"SCRAM-SHA-256" {
        return Err(unsupported());
    }
    let challenge = Challenge::new(text, password, &mut fastrand::Rng::new()).ok_or_else(unsupported)?;
    ask(wire, &authentication(11, challenge.message.as_bytes())).await?;
    let last = answer(wire).await?;
    proxy.answers().await;
    let proof = std::str::from_utf8(&last.body).ok().and_then(|proof| challenge.check(proof));
    let signature = proof.ok_or_else(|| Refusal::password(user))?;
    wire.writer.push(&authentication(12, signature.as_bytes()));
    Ok(())
}

async fn ask(wire: &mut Wire, frame: &Frame) -> io::Result<()> {
    wire.writer.push(frame);
    wire.writer.send().await
}

async fn answer(wire: &mut Wire) -> Result<Frame, Denied> {
    match wire.reader.frame().await? {
        Some(frame) if frame.tag == b'p' => Ok(frame),
        _ => Err(Denied::Gone),
    }
}

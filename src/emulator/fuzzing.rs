//! What must hold of the emulator's parsers, whatever they are given. See `crate::fuzzing`.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::FutureExt;
use percent_encoding::percent_decode_str;
use postgres_protocol::message::frontend::startup_message;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use super::SessionId;
use super::iam::{AccessKey, Audience, LONGEST_LIFE, TokenRefusal, verify};
use super::postgres::{Opening, sqlstate};
use super::prepared::{Known, Passed, Prepared};
use super::wire::{Frame, LONGEST_LOGIN_FRAME, Wire};

/// A packet behind its length.
pub(crate) fn startup(packet: &[u8]) {
    arrives_whole(packet);
    let code = |major: u32, minor: u32| packet.get(..4) == Some(&(major << 16 | minor).to_be_bytes()[..]);
    match Opening::parse(&Bytes::copy_from_slice(packet)) {
        None => {}
        Some(Opening::Tls) => assert!(code(1234, 5679)),
        Some(Opening::Gss) => assert!(code(1234, 5680)),
        Some(Opening::Cancel) => assert!(code(1234, 5678)),
        Some(Opening::Refused(refusal)) => {
            let frame = refusal.frame("FATAL");
            assert_eq!(sqlstate(&frame).as_deref(), Some(refusal.code.as_bytes()));
            let texts: Vec<_> = frame.texts().collect();
            assert!(texts.len() == 5 && texts[4].is_empty(), "a field was cut: {texts:?}");
        }
        Some(Opening::Startup(startup)) => {
            assert!(code(3, 0) && !startup.user.is_empty() && !startup.database.is_empty());
            let fixed = [("user", startup.user.as_str()), ("database", startup.database.as_str())];
            let others = startup.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            let mut encoded = BytesMut::new();
            startup_message(fixed.into_iter().chain(others), &mut encoded).expect("texts without zeros");
            encoded.advance(4);
            let again = Opening::parse(&encoded.freeze());
            let Some(Opening::Startup(again)) = again else { panic!("{startup:?} became {again:?}") };
            assert_eq!((&startup.user, &startup.database), (&again.user, &again.database));
            assert_eq!(startup.parameters, again.parameters);
            let mut texts = packet[4..].split(|byte| *byte == 0);
            while texts.next().is_some_and(|name| !name.is_empty()) {
                texts.next();
            }
            assert_eq!(texts.collect::<Vec<_>>(), [b""], "something follows the parameters");
        }
    }
}

/// With its length before it and something behind it, the packet is read as it is, or refused for its length.
fn arrives_whole(packet: &[u8]) {
    let length = packet.len() + 4;
    let stream = [&(length as u32).to_be_bytes()[..], packet, b"more"].concat();
    for lengths in [&[][..], &[(length % 8) as u8, 255]] {
        let mut wire = Wire::new(tokio::io::join(Pieces::of(&stream, lengths), tokio::io::sink()));
        let read = std::iter::from_fn(|| Some(wire.reader.packet().now_or_never())).flatten().next();
        match read.expect("the stream ends").map_err(|error| error.kind()) {
            Ok(read) => assert_eq!(read.as_deref(), Some(packet)),
            Err(kind) => {
                assert_eq!(kind, io::ErrorKind::InvalidData);
                assert!(!(8..=LONGEST_LOGIN_FRAME).contains(&length), "{length} bytes are refused");
            }
        }
    }
}

/// The first byte counts those that tell the lengths of the pieces; the rest is the stream.
pub(crate) fn frames(data: &[u8]) {
    let Some((count, rest)) = data.split_first() else { return };
    let (lengths, stream) = rest.split_at(rest.len().min(usize::from(count % 16)));
    for after_login in [false, true] {
        let expected = Frames::cut_by_hand(stream, if after_login { 0x3fff_ffff } else { LONGEST_LOGIN_FRAME });
        for lengths in [&[][..], &[0], lengths] {
            assert_eq!(Frames::read(stream, lengths, after_login), expected, "in pieces of {lengths:?}");
        }
        expected.survive_a_round_trip();
        let (mut prepared, mut known) = (Prepared::new(SessionId(1)), Known::default());
        let mut pinned = false;
        for (tag, body) in expected.frames {
            let Passed { frame: passed, before, pin, .. } = prepared.pass(&Frame::new(tag, body.clone()), &mut known);
            pinned |= pin.is_some();
            assert!(before.is_empty() || pinned, "a name of the client's own on a session that others get");
            assert!(passed.tag == tag && passed.texts().count() == Frame::new(tag, body).texts().count());
            for answer in [b'1', b'3', b'Z'] {
                prepared.answered(&Frame::new(answer, Bytes::new()), &mut known);
            }
        }
        let missing = prepared.missing(&Known::default(), &Frame::new(b'B', Bytes::new()));
        assert!(missing.iter().all(|statement| statement.parse.tag == b'P'));
        // A pinned client keeps its session, where no statement is missing.
        assert!(pinned || prepared.missing(&known, &Frame::new(b'P', Bytes::from_static(b"s"))).is_empty());
    }
}

/// What a stream held, and the error it ended with.
#[derive(Debug, PartialEq)]
struct Frames {
    frames: Vec<(u8, Bytes)>,
    error: Option<io::ErrorKind>,
}

impl Frames {
    fn cut_by_hand(mut stream: &[u8], longest: usize) -> Self {
        let mut frames = Vec::new();
        while let [tag, a, b, c, d, rest @ ..] = stream {
            let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
            if length < 4 || length > longest {
                return Frames { frames, error: Some(io::ErrorKind::InvalidData) };
            }
            let Some((body, rest)) = rest.split_at_checked(length - 4) else { break };
            frames.push((*tag, Bytes::copy_from_slice(body)));
            stream = rest;
        }
        Frames { frames, error: None }
    }

    fn read(stream: &[u8], lengths: &[u8], after_login: bool) -> Self {
        let mut wire = Wire::new(tokio::io::join(Pieces::of(stream, lengths), tokio::io::sink()));
        if after_login {
            wire.reader.expect_requests();
        }
        let mut frames = Vec::new();
        loop {
            // A wait for the next piece is given up and begun again.
            let read = wire.reader.frame().now_or_never();
            assert!(wire.reader.room() <= 2 * stream.len() + 16 * 1024, "room for {} bytes", wire.reader.room());
            match read {
                None => {}
                Some(Ok(Some(frame))) => frames.push((frame.tag, frame.body)),
                Some(Ok(None)) => return Frames { frames, error: None },
                Some(Err(error)) => return Frames { frames, error: Some(error.kind()) },
            }
        }
    }

    fn survive_a_round_trip(&self) {
        let length: usize = self.frames.iter().map(|(_, body)| 5 + body.len()).sum();
        let (near, mut far) = tokio::io::duplex(length + 1);
        let mut wire = Wire::new(near);
        for (tag, body) in &self.frames {
            wire.writer.push(&Frame::new(*tag, body.clone()));
        }
        wire.writer.finish().now_or_never().expect("there is room").expect("nobody hangs up");
        let mut sent = Vec::new();
        far.read_to_end(&mut sent).now_or_never().expect("all is there").expect("nobody hangs up");
        assert_eq!(Frames::cut_by_hand(&sent, usize::MAX).frames, self.frames);
    }
}

/// A stream that comes piece by piece, with a wait before each.
struct Pieces {
    left: VecDeque<Bytes>,
    waited: bool,
}

impl Pieces {
    /// Pieces of these lengths and one byte more, again and again; one piece if there are none.
    fn of(stream: &[u8], lengths: &[u8]) -> Self {
        let mut rest = Bytes::copy_from_slice(stream);
        let mut left = VecDeque::new();
        for length in lengths.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            left.push_back(rest.split_to(rest.len().min(usize::from(*length) + 1)));
        }
        left.push_back(rest);
        Pieces { left, waited: false }
    }
}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.waited, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.waited = false;
        if let Some(mut piece) = self.left.pop_front() {
            buffer.put_slice(&piece.split_to(piece.len().min(buffer.remaining())));
            if !piece.is_empty() {
                self.left.push_front(piece);
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Whom a token is for, and who signed it.
#[derive(Clone, Debug)]
pub(crate) struct Claims<'a> {
    pub(crate) id: &'a str,
    pub(crate) secret: &'a str,
    pub(crate) session_token: Option<&'a str>,
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    pub(crate) region: &'a str,
    pub(crate) user: &'a str,
}

/// Judges a token at `now`.
pub(crate) fn verdict(token: &str, claims: &Claims<'_>, now: SystemTime) -> Result<(), TokenRefusal> {
    let audience = Audience {
        host: claims.host.to_owned(),
        port: claims.port,
        region: claims.region.to_owned(),
        token_life: LONGEST_LIFE,
    };
    let key = AccessKey::new(claims.id, claims.secret);
    let key = claims.session_token.into_iter().fold(key, AccessKey::session_token);
    verify(token, claims.user, &audience, &[key], now)
}

/// The vector of the AWS SDK for Rust.
const TOKEN: &str = "prod-instance.us-east-1.rds.amazonaws.com:3306/?Action=connect&DBUser=peccy&\
    X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=akid%2F20240826%2Fus-east-1%2Frds-db%2Faws4_request&\
    X-Amz-Date=20240826T220000Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host&\
    X-Amz-Signature=dd0cba843009474347af724090233265628ace491ea17ce3eb3da098b983ad89";
const CLAIMS: Claims<'_> = Claims {
    id: "akid",
    secret: "secret",
    session_token: None,
    host: "prod-instance.us-east-1.rds.amazonaws.com",
    port: 3306,
    region: "us-east-1",
    user: "peccy",
};
const SIGNED_AT: Duration = Duration::from_secs(1_724_709_600);

/// What a token says: the text before its query, and its pairs once decoded, in whatever order they came.
fn meaning(token: &str) -> Option<(&str, Vec<[Vec<u8>; 2]>)> {
    let (authority, query) = token.split_once("/?")?;
    let decoded = |text: &str| percent_decode_str(text).collect();
    let pair = |pair: &str| pair.split_once('=').map(|(name, value)| [decoded(name), decoded(value)]);
    let mut pairs: Vec<_> = query.split('&').map(pair).collect::<Option<_>>()?;
    pairs.sort();
    Some((authority, pairs))
}

/// The text of a token as it was sent, or of something like it.
pub(crate) fn altered_token(text: &[u8]) {
    let token = String::from_utf8_lossy(text);
    let at = |after| verdict(&token, &CLAIMS, UNIX_EPOCH + SIGNED_AT + after);
    let same = meaning(&token) == meaning(TOKEN);
    assert_eq!(at(Duration::ZERO).is_ok(), same, "{:?}: {token}", at(Duration::ZERO));
    if same {
        assert_eq!(at(LONGEST_LIFE), Err(TokenRefusal::Expired));
    }
}

/// The valid token with its pairs exchanged and its texts encoded as the bytes say.
pub(crate) fn rearranged_token(choices: &[u8]) {
    let mut choices = choices.iter().copied().chain(std::iter::repeat(0));
    let mut next = || choices.next().unwrap_or_default();
    let (authority, query) = TOKEN.split_once("/?").expect("a token has a query");
    let mut pairs: Vec<&str> = query.split('&').collect();
    for at in (1..pairs.len()).rev() {
        pairs.swap(at, usize::from(next()) % (at + 1));
    }
    let mut encoded = |text: &str| {
        percent_decode_str(text).fold(String::new(), |mut text, byte| {
            let choice = next();
            match byte {
                b'/' if choice & 1 == 0 => text.push('/'),
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' if choice & 1 == 0 => text.push(byte.into()),
                _ if choice & 2 == 0 => text.push_str(&format!("%{byte:02X}")),
                _ => text.push_str(&format!("%{byte:02x}")),
            }
            text
        })
    };
    let pairs = pairs.iter().map(|pair| {
        let (name, value) = pair.split_once('=').expect("a pair has a value");
        format!("{}={}", encoded(name), encoded(value))
    });
    let token = format!("{authority}/?{}", pairs.collect::<Vec<_>>().join("&"));
    assert_eq!(verdict(&token, &CLAIMS, UNIX_EPOCH + SIGNED_AT), Ok(()), "{token}");
}

//! PostgreSQL's frames over any byte stream: buffered both ways, so that a wait for one can be given up at any point.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};

use super::metrics::Present;

/// PostgreSQL's own limit on a message.
const LONGEST_FRAME: usize = 0x3fff_ffff;
/// Longer than any client's packets before the end of its login.
pub(super) const LONGEST_LOGIN_FRAME: usize = 64 * 1024;
/// While this much waits to be sent to one side, nothing more is read from the other.
const ENOUGH: usize = 256 * 1024;

/// A byte stream of either kind, plain or TLS.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

/// One message: the letter that names it and everything after the length.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) tag: u8,
    pub(super) body: Bytes,
}

impl Frame {
    pub(super) fn new(tag: u8, body: impl Into<Bytes>) -> Self {
        Frame { tag, body: body.into() }
    }

    /// As it travels.
    pub(super) fn encode(&self, buffer: &mut BytesMut) {
        buffer.put_u8(self.tag);
        buffer.put_u32(self.body.len() as u32 + 4);
        buffer.put_slice(&self.body);
    }

    /// The zero-terminated texts at its beginning, one after the other.
    pub(super) fn texts(&self) -> Texts {
        Texts(self.body.clone())
    }
}

/// Zero-terminated texts.
pub(super) struct Texts(pub(super) Bytes);

impl Iterator for Texts {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let text = self.0.split_to(end);
        self.0.advance(1);
        Some(text)
    }
}

/// Both directions of one connection.
pub(super) struct Wire {
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    /// Counts it among its kind while it is open.
    pub(super) counted: Option<Present>,
}

/// The incoming half.
pub(super) struct Reader {
    stream: ReadHalf<Box<dyn Duplex>>,
    buffer: BytesMut,
    longest: usize,
}

/// The outgoing half.
pub(super) struct Writer {
    stream: WriteHalf<Box<dyn Duplex>>,
    buffer: BytesMut,
}

impl Wire {
    /// The stream alone, to be wrapped in TLS; `None` when bytes are buffered that would be lost.
    pub(super) fn into_stream(self) -> Option<Box<dyn Duplex>> {
        self.is_empty().then(|| self.reader.stream.unsplit(self.writer.stream))
    }

    /// Whether nothing is buffered in either direction.
    pub(super) fn is_empty(&self) -> bool {
        self.reader.buffer.is_empty() && self.writer.buffer.is_empty()
    }

    /// Completes when the peer has gone; what it sends until then is kept. Cancel safe.
    pub(super) async fn hangs_up(&mut self) {
        while !self.reader.is_full() {
            if !matches!(self.reader.fill().await, Ok(true)) {
                return;
            }
        }
        std::future::pending().await
    }

    /// Sends all that waits and keeps what comes meanwhile: a peer that waits to be read takes nothing.
    pub(super) async fn send(&mut self) -> io::Result<()> {
        let mut open = true;
        while !self.writer.is_empty() {
            tokio::select! {
                biased;
                sent = self.writer.send_some() => sent?,
                read = self.reader.fill(), if open => open = matches!(read, Ok(true)),
            }
        }
        Ok(())
    }

    pub(super) fn new(stream: impl Duplex + 'static) -> Self {
        let (read, write) = tokio::io::split(Box::new(stream) as Box<dyn Duplex>);
        Wire {
            reader: Reader { stream: read, buffer: BytesMut::new(), longest: LONGEST_LOGIN_FRAME },
            writer: Writer { stream: write, buffer: BytesMut::new() },
            counted: None,
        }
    }
}

impl Reader {
    /// After the login frames may be as long as PostgreSQL allows.
    pub(super) fn expect_requests(&mut self) {
        self.longest = LONGEST_FRAME;
    }

    /// The next frame; `None` when the peer has closed. Cancel safe.
    pub(super) async fn frame(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(Some(frame));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// A packet of an opening: a length and what it counts, without a letter. `None` when the peer has closed.
    pub(super) async fn packet(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(length) = self.buffer.first_chunk::<4>() {
                let length = u32::from_be_bytes(*length) as usize;
                if !(8..=LONGEST_LOGIN_FRAME).contains(&length) {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "a packet of an impossible length"));
                }
                if self.buffer.len() >= length {
                    let mut packet = self.buffer.split_to(length).freeze();
                    packet.advance(4);
                    return Ok(Some(packet));
                }
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// Throws away what has come and what comes next; `false` when the peer has closed. Cancel safe.
    pub(super) async fn skip(&mut self) -> io::Result<bool> {
        self.buffer.clear();
        self.fill().await
    }

    /// Reads whatever comes; `false` when the peer has closed. Cancel safe.
    pub(super) async fn fill(&mut self) -> io::Result<bool> {
        self.buffer.reserve(8 * 1024);
        Ok(self.stream.read_buf(&mut self.buffer).await? > 0)
    }

    /// Whether enough is buffered for now.
    pub(super) fn is_full(&self) -> bool {
        self.buffer.len() >= ENOUGH
    }

    /// How many bytes fit into the memory it holds.
    #[cfg(any(test, fuzzing))]
    pub(super) fn room(&self) -> usize {
        self.buffer.capacity()
    }

    fn buffered(&mut self) -> io::Result<Option<Frame>> {
        let Some((&tag, rest)) = self.buffer.split_first() else { return Ok(None) };
        let Some(length) = rest.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if !(4..=self.longest).contains(&length) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message of an impossible length"));
        }
        if self.buffer.len() < 1 + length {
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(1 + length).freeze();
        frame.advance(5);
        Ok(Some(Frame { tag, body: frame }))
    }
}

impl Writer {
    pub(super) fn push(&mut self, frame: &Frame) {
        frame.encode(&mut self.buffer);
    }

    /// Messages that are encoded already.
    pub(super) fn push_raw(&mut self, bytes: &[u8]) {
        self.buffer.put_slice(bytes);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.buffer.len() >= ENOUGH
    }

    /// Sends some of what waits. Cancel safe.
    pub(super) async fn send_some(&mut self) -> io::Result<()> {
        if self.stream.write_buf(&mut self.buffer).await? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        if self.buffer.is_empty() {
            self.stream.flush().await?;
        }
        Ok(())
    }

    /// Sends all of it.
    pub(super) async fn send(&mut self) -> io::Result<()> {
        while !self.is_empty() {
            self.send_some().await?;
        }
        Ok(())
    }

    /// Sends all of it and says that nothing follows.
    pub(super) async fn finish(&mut self) -> io::Result<()> {
        self.send().await?;
        self.stream.shutdown().await
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_claimed_gigabyte_takes_no_memory_before_it_has_arrived() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut wire = Wire::new(near);
        wire.reader.expect_requests();
        far.write_all(b"Q\x3f\xff\xff\xffSELECT").now_or_never().expect("there is room").unwrap();
        assert!(wire.reader.frame().now_or_never().is_none());
        assert!(wire.reader.room() < 64 * 1024, "room for {} bytes", wire.reader.room());
    }
}

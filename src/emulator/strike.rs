//! What a fault does to a connection where it strikes.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::SessionId;
use super::event::{Closed, Event};
use super::fault::{ClientMessage, Delivered, Kind, Message, Point};
use super::in_force::Armed;
use super::postgres::Refusal;
use super::proxy::Proxy;
use super::session::{Cut, Ended};
use super::wire::{Frame, Wire};

/// The client connection that is struck.
#[derive(Clone, Copy)]
pub(super) struct Target<'p> {
    pub(super) id: SessionId,
    pub(super) proxy: &'p Proxy,
    /// A second handle to its socket, to see it go without reading from it.
    pub(super) socket: &'p TcpStream,
}

/// Bytes that were on their way when the fault struck.
pub(super) enum Withheld<'w> {
    /// Of a message of this length that the proxy keeps for itself.
    Kept(usize),
    /// To the database.
    Request(&'w mut Wire, Bytes),
    /// To the client.
    Reply(Bytes),
}

impl Withheld<'_> {
    fn len(&self) -> usize {
        match self {
            Withheld::Kept(len) => *len,
            Withheld::Request(_, bytes) | Withheld::Reply(bytes) => bytes.len(),
        }
    }

    /// Hands on the next of the bytes, up to this many.
    async fn hand_on(&mut self, most: usize, client: &mut Wire) -> std::io::Result<()> {
        let most = most.min(self.len());
        match self {
            Withheld::Kept(len) => {
                *len -= most;
                Ok(())
            }
            Withheld::Request(database, bytes) => {
                database.writer.push_raw(&bytes.split_to(most));
                if database.send().await.is_err() {
                    // The relay is going to see it, and what the database said before its end.
                    bytes.clear();
                }
                Ok(())
            }
            Withheld::Reply(bytes) => {
                client.writer.push_raw(&bytes.split_to(most));
                client.writer.send().await
            }
        }
    }
}

impl Armed {
    /// The whole reply as it is withheld, and how many bytes of it go first: as many as make half, in whole messages where
    /// another is to follow.
    pub(super) fn reply(&self, frames: &[Frame]) -> (Withheld<'static>, usize) {
        let mut bytes = BytesMut::new();
        let mut half = 0;
        for (number, frame) in (0..).zip(frames) {
            if number == frames.len() / 2 {
                half = bytes.len();
            }
            frame.encode(&mut bytes);
        }
        let before = match self.point {
            Point::MidReply if self.kind.is_fatal() => half,
            Point::MidReply => bytes.len() / 2,
            _ => 0,
        };
        (Withheld::Reply(bytes.freeze()), before)
    }
}

/// What was known of the message when the fault struck.
pub(super) struct Blow {
    /// The last message received in full.
    pub(super) received: Option<ClientMessage>,
    pub(super) delivered: Delivered,
    /// How many of the withheld bytes are handed on before.
    pub(super) before: usize,
}

impl<'p> Target<'p> {
    /// The fault this message meets.
    pub(super) fn meet(&self, message: Message, text: Option<&str>) -> Option<Armed> {
        self.proxy.faults.meet(self.id, message, text)
    }

    /// Strikes. When the connection survives, the withheld bytes have been handed on.
    ///
    /// Cancel safe only in the sense that whoever gives it up must end the connection.
    pub(super) async fn strike(
        &self,
        armed: Armed,
        blow: Blow,
        client: &mut Wire,
        mut withheld: Withheld<'_>,
    ) -> Result<(), Ended> {
        let gone = |_| Ended::quietly(Closed::ByClient);
        let Blow { received, delivered, before } = blow;
        // Before anybody hears of it, who may then move the clock.
        let struck = self.proxy.clock.monotonic();
        self.answering(client).await?;
        withheld.hand_on(before, client).await.map_err(gone)?;
        self.proxy.log.record(Event::Struck(armed.strike(self.id, received, delivered)));
        match armed.kind {
            Kind::Close => return Err(Ended(Closed::Fault, Cut::Close)),
            Kind::Reset => return Err(Ended(Closed::Fault, Cut::Reset)),
            kind if kind.is_fatal() => {
                client.writer.push(&Refusal::shutdown(kind).frame("FATAL"));
                // If the client has gone it will not read this.
                let _ = client.writer.finish().await;
                return Err(Ended::quietly(Closed::Fault));
            }
            Kind::StopReading => {
                self.client_closes().await;
                return Err(Ended::quietly(Closed::ByClient));
            }
            Kind::NeverAnswer => {
                while matches!(client.reader.skip().await, Ok(true)) {}
                return Err(Ended::quietly(Closed::ByClient));
            }
            Kind::Late { .. } => {
                // If the client has gone it need not be told.
                let _ = client.writer.finish().await;
                if matches!(withheld, Withheld::Request(..)) {
                    self.passing(struck, armed.delay).await;
                    withheld.hand_on(usize::MAX, client).await.map_err(gone)?;
                }
                return Err(Ended::quietly(Closed::Fault));
            }
            Kind::Delay { .. } => self.pause(struck, armed.delay, client).await?,
            Kind::Drip { bytes, every } => {
                while withheld.len() > 0 {
                    withheld.hand_on(bytes.max(1), client).await.map_err(gone)?;
                    self.pause(self.proxy.clock.monotonic(), every, client).await?;
                    self.answering(client).await?;
                }
            }
            // Certificates have struck where TLS began.
            _ => {}
        }
        self.answering(client).await?;
        withheld.hand_on(usize::MAX, client).await.map_err(gone)
    }

    async fn pause(&self, start: Instant, length: Duration, client: &mut Wire) -> Result<(), Ended> {
        unless_it_goes(client, self.passing(start, length)).await
    }

    async fn passing(&self, start: Instant, length: Duration) {
        match start.checked_add(length) {
            Some(end) => self.proxy.clock.sleep_until(end).await,
            // Later than any clock can tell.
            None => std::future::pending().await,
        }
    }

    /// Waits while the proxy does not answer.
    async fn answering(&self, client: &mut Wire) -> Result<(), Ended> {
        match self.proxy.is_answering() {
            true => Ok(()),
            false => unless_it_goes(client, self.proxy.answers()).await,
        }
    }

    /// Completes when the client has closed its side, whatever it has sent before.
    async fn client_closes(&self) {
        loop {
            match self.socket.ready(Interest::READABLE).await {
                Ok(ready) if !ready.is_read_closed() => {
                    // Waits for the next change: what is there is not going to be read.
                    let unread = || Err::<(), _>(std::io::ErrorKind::WouldBlock.into());
                    let _ = self.socket.try_io(Interest::READABLE, unread);
                }
                _ => return,
            }
        }
    }
}

/// Waits, at most until the client hangs up.
async fn unless_it_goes(client: &mut Wire, waiting: impl Future<Output = ()>) -> Result<(), Ended> {
    tokio::select! {
        () = waiting => Ok(()),
        () = client.hangs_up() => Err(Ended::quietly(Closed::ByClient)),
    }
}

//! Faults that a request of a logged-in client meets.

use bytes::BytesMut;
use tokio::sync::mpsc::UnboundedReceiver;

use super::super::event::Closed;
use super::super::fault::{ClientMessage, Delivered, Point};
use super::super::in_force::Armed;
use super::super::session::{Command, Cut, Ended};
use super::super::strike::{Blow, Withheld};
use super::super::wire::Frame;
use super::Session;
use super::borrow::Assigned;

impl Armed {
    fn is_for_reply(&self) -> bool {
        matches!(self.point, Point::BeforeReply | Point::MidReply)
    }

    /// Whether it strikes at a message no later than this one.
    fn is_for_request(&self, tag: u8) -> bool {
        match self.point {
            Point::BeforeRequest | Point::MidRequest => true,
            // A text of statements has its Sync within.
            Point::BeforeSync => matches!(tag, b'S' | b'Q'),
            Point::BeforeReply | Point::MidReply => false,
        }
    }
}

/// A fault that a request has met and not reached. A request meets one at a time, so that what it meets does not depend on
/// how fast others are answered.
#[derive(Clone, Copy)]
pub(super) struct Aimed {
    fault: Armed,
    /// The requests before it that have no answer yet.
    ahead: usize,
}

impl Session<'_> {
    /// Lets a message meet the fault it has coming; `before` is the message received before, and `passed` is what the
    /// database is to get of it. Whether the database has got it by that.
    pub(super) async fn strike_request(
        &mut self,
        frame: &Frame,
        passed: &Frame,
        before: ClientMessage,
    ) -> Result<bool, Ended> {
        let ahead = self.pending.len();
        let of_this_request = |aimed: &&Aimed| aimed.ahead == ahead;
        if self.armed.back().filter(of_this_request).is_none()
            && let Some((message, text)) = self.prepared.message(frame)
            && let Some(fault) = self.target.meet(message, Some(&text))
        {
            self.armed.push_back(Aimed { fault, ahead });
        }
        let aimed = self.armed.back().filter(of_this_request);
        let Some(Aimed { fault, .. }) = aimed.filter(|aimed| aimed.fault.is_for_request(frame.tag)).copied() else {
            return Ok(false);
        };
        self.armed.pop_back();
        let mut bytes = BytesMut::new();
        passed.encode(&mut bytes);
        let (delivered, half) = match fault.point {
            Point::BeforeRequest => (Delivered::Nothing, 0),
            Point::BeforeSync if frame.tag == b'S' => (Delivered::AllButSync, 0),
            _ => (Delivered::Half, bytes.len() / 2),
        };
        let blow = Blow { received: Some(before), delivered, before: half };
        let Some(database) = &mut self.database else { return Ok(false) };
        let withheld = Withheld::Request(&mut database.wire, bytes.freeze());
        let striking = self.target.strike(fault, blow, &mut self.client, withheld);
        while_under_way(striking, self.commands, &mut self.assigned).await?;
        Ok(true)
    }

    /// Whether a fault waits for what the database says now.
    pub(super) fn is_aimed_at_reply(&self) -> bool {
        self.armed.front().is_some_and(|aimed| aimed.ahead == 0 && aimed.fault.is_for_reply())
    }

    /// A request is answered.
    pub(super) fn aim_at_next(&mut self) {
        self.armed.retain_mut(|aimed| {
            let is_later = aimed.ahead > 0;
            aimed.ahead -= usize::from(is_later);
            is_later
        });
    }

    /// Keeps an answer back until it is whole, and lets it meet the fault.
    pub(super) async fn withhold(&mut self, frame: Frame) -> Result<(), Ended> {
        // The database waits for the client after these, or will say nothing else before the client asks for more.
        let waits = matches!(frame.tag, b'G' | b'W') || self.received == ClientMessage::Flush;
        let is_whole = frame.tag == b'Z';
        self.held.push(frame);
        if !is_whole && !waits {
            return Ok(());
        }
        let Some(Aimed { fault, .. }) = self.armed.pop_front() else { return Ok(()) };
        let reply = std::mem::take(&mut self.held);
        self.strike_reply(fault, Delivered::Answered, &reply).await?;
        reply.iter().for_each(|frame| self.take_note(frame));
        Ok(())
    }

    /// Lets a whole reply meet a fault; what is left of it reaches the client.
    pub(super) async fn strike_reply(
        &mut self,
        fault: Armed,
        delivered: Delivered,
        reply: &[Frame],
    ) -> Result<(), Ended> {
        let (withheld, before) = fault.reply(reply);
        let blow = Blow { received: Some(self.received), delivered, before };
        let striking = self.target.strike(fault, blow, &mut self.client, withheld);
        while_under_way(striking, self.commands, &mut self.assigned).await
    }
}

/// Obeys a test meanwhile: the session has something under way.
async fn while_under_way(
    striking: impl Future<Output = Result<(), Ended>>,
    commands: &mut UnboundedReceiver<Command>,
    assigned: &mut Assigned,
) -> Result<(), Ended> {
    tokio::pin!(striking);
    loop {
        tokio::select! {
            biased;
            command = commands.recv() => match command {
                // Whoever is being kept waiting by a fault hears no last words either.
                Some(Command::FailOver(Cut::Terminate)) => return Err(Ended::quietly(Closed::Failover)),
                Some(Command::Move(_)) => return Err(Ended::quietly(Closed::BackendLost)),
                command => assigned.obey(command)?,
            },
            struck = &mut striking => return struck,
        }
    }
}

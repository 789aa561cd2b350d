//! What the database says on its way to the client.

use super::super::event::{Closed, Event};
use super::super::postgres::ready_for_query;
use super::super::session::Ended;
use super::super::wire::Frame;
use super::{OWN, Session};

impl Session<'_> {
    /// A request ended without the database: no transaction is open.
    pub(super) fn answered_here(&mut self) {
        self.client.writer.push(&ready_for_query(b'I'));
        self.answered();
    }

    pub(super) fn answered(&mut self) {
        self.waited_for = false;
        self.last_traffic = self.target.proxy.clock.monotonic();
        self.meter.answered(self.last_traffic);
        self.target.proxy.log.record(Event::Answered(self.target.id));
    }

    pub(super) async fn backend_sent(&mut self, frame: Frame) -> Result<(), Ended> {
        if self.pending.front() == Some(&OWN) {
            if frame.tag == b'Z' {
                self.pending.pop_front();
                self.aim_at_next();
            }
            return Ok(());
        }
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
    pub(super) fn take_note(&mut self, frame: &Frame) {
        if let Some(database) = &mut self.database {
            self.prepared.answered(frame, &mut database.statements);
        }
        if frame.tag == b'Z' {
            self.status = frame.body.first().copied().unwrap_or(b'I');
            self.meter.in_transaction(self.status != b'I');
            self.pending.pop_front();
            self.aim_at_next();
            if self.pending.is_empty() {
                self.answered();
            }
            if self.is_idle() && self.pin.is_none() {
                self.database.take().into_iter().for_each(|database| self.target.proxy.pool.give_back(database));
            }
        }
        match frame.tag {
            b'G' => {
                self.copying += 1;
                // The server takes no notice of the Sync behind a statement that copies from the client: another follows
                // the data.
                if self.pending.pop_front_if(|tag| *tag == b'S').is_some() {
                    self.prepared.skip_sync();
                }
            }
            b'E' | b'Z' => self.copying = 0,
            _ => {}
        }
    }

    pub(super) async fn backend_lost(&mut self) -> Result<(), Ended> {
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

    pub(super) fn let_go(&mut self) {
        self.database = None;
        self.target.proxy.log.record(Event::BackendLost(self.target.id));
    }
}

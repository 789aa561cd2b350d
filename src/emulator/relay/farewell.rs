//! The last words to a client whose server is stopped by an administrator.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;

use super::super::backend::Backend;
use super::super::fault::Kind;
use super::super::pool::Database;
use super::super::postgres::Refusal;
use super::super::session::{Command, Cut, Ended};
use super::super::wire::Wire;
use super::{OWN, Session};

/// Between two requests to stop a statement.
const AGAIN: Duration = Duration::from_millis(5);

impl Session<'_> {
    /// Says what there is to say at the end. A cut meanwhile ends that too.
    pub(super) async fn farewell(self, ended: Ended) -> Ended {
        if ended.1 != Cut::Terminate || !self.target.proxy.is_answering() {
            return ended;
        }
        let Session { mut client, database, pending, commands, held, .. } = self;
        // Kept back for a fault that does not come to strike.
        held.iter().for_each(|frame| client.writer.push(frame));
        let saying = async {
            if let Some(mut database) = database {
                stop(&mut database, pending, &mut client).await;
            }
            client.writer.push(&Refusal::shutdown(Kind::AdminShutdown).frame("FATAL"));
            // If the client has gone it will not read this.
            let _ = client.writer.finish().await;
        };
        tokio::select! {
            biased;
            how = cut(commands) => Ended(ended.0, how),
            () = saying => ended,
        }
    }
}

/// Stops what runs and passes on what the server still says, up to the error that stopping it made.
async fn stop(database: &mut Database, mut pending: VecDeque<u8>, client: &mut Wire) {
    let Database { wire: Wire { reader, writer, .. }, key, cancel_key, .. } = database;
    while let Some(request) = pending.front() {
        tokio::select! {
            biased;
            frame = reader.frame() => match frame {
                Ok(Some(frame)) if frame.tag != b'E' => {
                    // The answers to the proxy's own requests are none of the client's business.
                    if *request != OWN {
                        client.writer.push(&frame);
                    }
                    pending.pop_front_if(|_| frame.tag == b'Z');
                }
                _ => return,
            },
            sent = writer.send_some(), if !writer.is_empty() => if sent.is_err() {
                return;
            },
            // Again and again: one that comes before the statement has begun stops nothing.
            stopped = stop_soon(&key.backend, cancel_key) => if stopped.is_err() {
                return;
            },
        }
    }
}

async fn stop_soon(backend: &Backend, key: &[u8]) -> io::Result<()> {
    tokio::time::sleep(AGAIN).await;
    backend.cancel(key).await
}

/// Completes when the session is cut or the emulator stops.
async fn cut(commands: &mut UnboundedReceiver<Command>) -> Cut {
    loop {
        match commands.recv().await {
            None => return Cut::Close,
            Some(Command::Cut(how)) => return how,
            Some(_) => {}
        }
    }
}

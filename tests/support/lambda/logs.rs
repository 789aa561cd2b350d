//! What a handler prints.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// The lines of all processes of one function.
pub(super) type Logs = Arc<Mutex<Vec<String>>>;

/// A thread that keeps what the process prints; dropping waits for the end of it.
#[derive(Debug)]
pub(super) struct Reader(Option<JoinHandle<()>>);

impl Reader {
    pub(super) fn start(pipe: Option<impl Read + Send + 'static>, logs: &Logs) -> Self {
        let logs = Arc::clone(logs);
        Reader(pipe.map(|pipe| {
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    logs.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                }
            })
        }))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.0.take().map(JoinHandle::join);
    }
}

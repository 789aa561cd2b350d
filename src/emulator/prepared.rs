//! The statements a client has prepared: to be prepared again elsewhere, and to be told by their text.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::fault::Message;
use super::wire::Frame;

/// What is known of one client's statements.
#[derive(Default)]
pub(super) struct Prepared {
    /// Named statements, as the client prepared them.
    named: BTreeMap<Bytes, Frame>,
    /// The text behind each name, the empty one included.
    texts: BTreeMap<Bytes, Bytes>,
    /// The name of the statement behind each portal.
    portals: BTreeMap<Bytes, Bytes>,
}

impl Prepared {
    /// The messages that prepare the named statements.
    pub(super) fn named(&self) -> &BTreeMap<Bytes, Frame> {
        &self.named
    }

    /// The message as faults know it, with its text.
    pub(super) fn message(&self, frame: &Frame) -> Option<(Message, String)> {
        let mut texts = frame.texts();
        let mut text = || texts.next().unwrap_or_default();
        match frame.tag {
            b'P' => {
                text();
                Some((Message::Parse, lossy(&text())))
            }
            b'Q' => Some(executed(lossy(&text()))),
            b'E' => Some(executed(self.behind(&text()).map(lossy).unwrap_or_default())),
            _ => None,
        }
    }

    /// The text behind a portal.
    fn behind(&self, portal: &Bytes) -> Option<&Bytes> {
        self.portals.get(portal).and_then(|statement| self.texts.get(statement))
    }

    /// Takes note of a client's message; the text of the statement, if it runs one.
    pub(super) fn note(&mut self, frame: &Frame) -> Option<String> {
        let mut texts = frame.texts();
        let mut text = || texts.next().unwrap_or_default();
        match frame.tag {
            b'Q' => return Some(lossy(&text())),
            b'E' => {
                return Some(self.behind(&text()).map(lossy).unwrap_or_default());
            }
            b'P' => {
                let (name, sql) = (copy(&text()), copy(&text()));
                if !name.is_empty() {
                    self.named.insert(name.clone(), Frame::new(frame.tag, copy(&frame.body)));
                }
                self.texts.insert(name, sql);
            }
            b'B' => {
                let (portal, statement) = (copy(&text()), copy(&text()));
                self.portals.insert(portal, statement);
            }
            b'C' => {
                let what = text();
                match what.split_first() {
                    Some((b'S', name)) => {
                        self.named.remove(name);
                        self.texts.remove(name);
                    }
                    Some((_, portal)) => drop(self.portals.remove(portal)),
                    None => {}
                }
            }
            _ => {}
        }
        None
    }
}

fn executed(text: String) -> (Message, String) {
    (super::text::message(&text), text)
}

fn lossy(text: &Bytes) -> String {
    String::from_utf8_lossy(text).into_owned()
}

/// What is kept: a part of the message would keep the whole buffer it came in.
fn copy(text: &Bytes) -> Bytes {
    Bytes::copy_from_slice(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_a_message_does_not_keep_the_buffer_it_came_in() {
        let mut prepared = Prepared::default();
        for (tag, body) in [(b'P', "s\0SELECT 1\0\0\0"), (b'B', "p\0s\0\0\0\0\0\0\0"), (b'E', "p\0\0\0\0\0")] {
            let frame = Frame::new(tag, body.to_owned().into_bytes());
            let sql = prepared.note(&frame);
            assert!(frame.body.is_unique());
            assert_eq!(sql.as_deref(), (tag == b'E').then_some("SELECT 1"));
        }
        assert_eq!(prepared.named().len(), 1);
    }
}

//! The statements a client has prepared: to be prepared again elsewhere, and to be told by their text.

use std::collections::BTreeMap;

use bytes::Bytes;

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

    /// Takes note of a client's message; the text of the statement, if it runs one.
    pub(super) fn note(&mut self, frame: &Frame) -> Option<String> {
        let mut texts = frame.texts();
        let mut text = || texts.next().unwrap_or_default();
        match frame.tag {
            b'Q' => return Some(lossy(&text())),
            b'E' => {
                let sql = self.portals.get(&text()).and_then(|statement| self.texts.get(statement));
                return Some(sql.map(lossy).unwrap_or_default());
            }
            b'P' => {
                let (name, sql) = (text(), text());
                if !name.is_empty() {
                    self.named.insert(name.clone(), frame.clone());
                }
                self.texts.insert(name, sql);
            }
            b'B' => {
                let (portal, statement) = (text(), text());
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

fn lossy(text: &Bytes) -> String {
    String::from_utf8_lossy(text).into_owned()
}

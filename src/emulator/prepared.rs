//! The statements a client has prepared: the names they have on the database, which other clients use too, and their texts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{BufMut, Bytes, BytesMut};

use super::SessionId;
use super::fault::Message;
use super::pin::PinReason;
use super::text::{Token, Tokens};
use super::wire::Frame;

/// A statement as the database has it.
#[derive(Clone, Debug)]
pub(super) struct Statement {
    /// No other statement of any client has it; that of a named one is its name on the database.
    id: Bytes,
    /// The message that prepares it.
    pub(super) parse: Frame,
    is_named: bool,
}

/// The statements that one database session has.
#[derive(Default)]
pub(super) struct Known {
    named: BTreeSet<Bytes>,
    unnamed: Option<Bytes>,
}

impl Known {
    pub(super) fn len(&self) -> usize {
        self.named.len()
    }

    pub(super) fn add(&mut self, statement: &Statement) {
        if statement.is_named {
            self.named.insert(statement.id.clone());
        } else {
            self.unnamed = Some(statement.id.clone());
        }
    }

    fn has(&self, statement: &Statement) -> bool {
        if statement.is_named {
            self.named.contains(&statement.id)
        } else {
            self.unnamed.as_ref() == Some(&statement.id)
        }
    }
}

/// What the database has yet to answer.
enum Step {
    Parse(Bytes, Statement),
    /// A statement, or anything else.
    Close(Option<(Bytes, Bytes)>),
    /// All before it is answered by then, or has failed.
    End,
}

/// A text and what it does to the session that runs it.
struct Text {
    sql: Bytes,
    pin: Option<PinReason>,
}

/// A client's message on its way to the database.
pub(super) struct Passed {
    /// As the database gets it.
    pub(super) frame: Frame,
    /// To be prepared before.
    pub(super) before: Vec<Frame>,
    /// The text it runs, if it runs one.
    pub(super) executed: Option<String>,
    /// What that text pins the client by.
    pub(super) pin: Option<PinReason>,
}

/// What is known of one client's statements.
pub(super) struct Prepared {
    client: SessionId,
    last: u64,
    /// What is prepared, by the client's names, the empty one included.
    statements: BTreeMap<Bytes, Statement>,
    /// The id behind each name as far as the client has asked.
    ids: BTreeMap<Bytes, Bytes>,
    outstanding: VecDeque<Step>,
    texts: BTreeMap<Bytes, Text>,
    /// The name of the statement behind each portal.
    portals: BTreeMap<Bytes, Bytes>,
}

impl Prepared {
    pub(super) fn new(client: SessionId) -> Self {
        Prepared {
            client,
            last: 0,
            statements: BTreeMap::new(),
            ids: BTreeMap::new(),
            outstanding: VecDeque::new(),
            texts: BTreeMap::new(),
            portals: BTreeMap::new(),
        }
    }

    /// What a database session that has these lacks for a request that begins with this message.
    pub(super) fn missing(&self, known: &Known, message: &Frame) -> Vec<&Statement> {
        let uses_unnamed = match message.tag {
            // It needs no statements, and the request ends with it.
            b'S' => return Vec::new(),
            // The one ends the unnamed statement, the other may replace it.
            b'Q' => false,
            b'P' => message.texts().next().is_some_and(|name| !name.is_empty()),
            _ => true,
        };
        let is_used = |statement: &&Statement| statement.is_named || uses_unnamed;
        self.statements.values().filter(is_used).filter(|statement| !known.has(statement)).collect()
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
            b'E' => Some(executed(self.behind(&text()).map(|text| lossy(&text.sql)).unwrap_or_default())),
            _ => None,
        }
    }

    /// The text behind a portal.
    fn behind(&self, portal: &Bytes) -> Option<&Text> {
        self.portals.get(portal).and_then(|statement| self.texts.get(statement))
    }

    /// Takes note of a client's message.
    pub(super) fn pass(&mut self, frame: &Frame, known: &mut Known) -> Passed {
        let mut passed = Passed { frame: frame.clone(), before: Vec::new(), executed: None, pin: None };
        let mut texts = frame.texts();
        match frame.tag {
            b'Q' => {
                self.outstanding.push_back(Step::End);
                self.statements.remove(b"".as_slice());
                known.unnamed = None;
                let sql = texts.next().unwrap_or_default();
                passed.pin = PinReason::of(&sql);
                if passed.pin == Some(PinReason::PreparedStatement) {
                    passed.before = self.called_by_name(&sql);
                }
                passed.executed = Some(lossy(&sql));
            }
            b'E' => {
                let text = texts.next().and_then(|portal| self.behind(&portal));
                passed.pin = text.and_then(|text| text.pin);
                passed.executed = Some(text.map(|text| lossy(&text.sql)).unwrap_or_default());
            }
            b'P' => {
                if let (Some(name), Some(sql)) = (texts.next(), texts.next()) {
                    if PinReason::of(&sql) == Some(PinReason::PreparedStatement) {
                        passed.before = self.called_by_name(&sql);
                        passed.pin = (!passed.before.is_empty()).then_some(PinReason::PreparedStatement);
                    }
                    passed.frame = self.parse(frame, copy(&name), &sql);
                }
            }
            b'B' => {
                if let (Some(portal), Some(statement)) = (texts.next(), texts.next()) {
                    passed.frame = self.renamed(frame, portal.len() + 1, &statement);
                    self.portals.insert(copy(&portal), copy(&statement));
                }
            }
            b'D' | b'C' => {
                if let Some(what) = texts.next() {
                    let name = (what.first() == Some(&b'S')).then(|| what.slice(1..));
                    if let Some(name) = &name {
                        passed.frame = self.renamed(frame, 1, name);
                    }
                    if frame.tag == b'C' {
                        self.close(name, &what);
                    }
                }
            }
            b'S' | b'F' => self.outstanding.push_back(Step::End),
            _ => {}
        }
        passed
    }

    /// What a text calls by the client's name for it gets that name, which nobody else uses where a client is pinned.
    fn called_by_name(&mut self, sql: &[u8]) -> Vec<Frame> {
        let mut called = Vec::new();
        // Between messages that end with a Sync there can be no other Sync.
        if !matches!(self.outstanding.back(), None | Some(Step::End)) {
            return called;
        }
        for token in Tokens::of(&String::from_utf8_lossy(sql)) {
            let Token::Word(word) = token else { continue };
            let name = Bytes::from(word.to_ascii_lowercase());
            let Some(statement) = self.statements.get_mut(&name).filter(|statement| statement.id != name) else {
                continue;
            };
            let rest = &statement.parse.body[statement.id.len()..];
            statement.parse = Frame::new(b'P', [&name, rest].concat());
            statement.id = name.clone();
            called.push(statement.parse.clone());
            self.ids.insert(name.clone(), name);
        }
        called
    }

    fn parse(&mut self, frame: &Frame, name: Bytes, sql: &Bytes) -> Frame {
        let is_named = !name.is_empty();
        let id = match self.ids.get(&name).filter(|_| is_named) {
            Some(id) => id.clone(),
            None => {
                self.last += 1;
                Bytes::from(format!("c{}_{}", self.client.0, self.last))
            }
        };
        self.ids.insert(name.clone(), id.clone());
        let parse = self.renamed(frame, 0, &name);
        let parse = Frame::new(parse.tag, copy(&parse.body));
        let statement = Statement { id, parse: parse.clone(), is_named };
        self.texts.insert(name.clone(), Text { sql: copy(sql), pin: PinReason::of(sql) });
        self.outstanding.push_back(Step::Parse(name, statement));
        parse
    }

    fn close(&mut self, statement: Option<Bytes>, what: &Bytes) {
        let closed = match statement {
            Some(name) => {
                self.texts.remove(&name);
                self.ids.remove(&name).map(|id| (copy(&name), id))
            }
            None => {
                self.portals.remove(what.get(1..).unwrap_or_default());
                None
            }
        };
        self.outstanding.push_back(Step::Close(closed));
    }

    /// The message with the database's name for this statement, which is found at this place.
    fn renamed(&self, frame: &Frame, at: usize, name: &Bytes) -> Frame {
        if name.is_empty() {
            return frame.clone();
        }
        let mut body = BytesMut::with_capacity(frame.body.len() + 16);
        body.put_slice(&frame.body[..at]);
        match self.ids.get(name) {
            Some(id) => body.put_slice(id),
            // No statement has it.
            None => body.put_slice(format!("c{}_0", self.client.0).as_bytes()),
        }
        body.put_slice(&frame.body[at + name.len()..]);
        Frame::new(frame.tag, body)
    }

    /// Takes note of the database's answer.
    pub(super) fn answered(&mut self, frame: &Frame, known: &mut Known) {
        match (frame.tag, self.outstanding.front()) {
            (b'1', Some(Step::Parse(..))) | (b'3', Some(Step::Close(_))) => match self.outstanding.pop_front() {
                Some(Step::Parse(name, statement)) => {
                    known.add(&statement);
                    self.statements.insert(name, statement);
                }
                Some(Step::Close(Some((name, id)))) => {
                    known.named.remove(&id);
                    if self.statements.get(&name).is_some_and(|statement| statement.id == id) {
                        self.statements.remove(&name);
                    }
                }
                _ => {}
            },
            (b'Z', _) => {
                while let Some(step) = self.outstanding.pop_front() {
                    match step {
                        Step::Parse(name, _) | Step::Close(Some((name, _))) => self.failed(name),
                        Step::Close(None) => {}
                        Step::End => return,
                    }
                }
            }
            _ => {}
        }
    }

    /// The database takes no notice of the Sync that comes next.
    pub(super) fn skip_sync(&mut self) {
        self.outstanding.pop_front();
    }

    /// The name stands for what it stood for before; the unnamed statement is gone.
    fn failed(&mut self, name: Bytes) {
        if name.is_empty() {
            self.statements.remove(&name);
        }
        match self.statements.get(&name) {
            Some(statement) => drop(self.ids.insert(name, statement.id.clone())),
            None => drop(self.ids.remove(&name)),
        }
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

    fn frame(tag: u8, body: &str) -> Frame {
        Frame::new(tag, body.to_owned().into_bytes())
    }

    /// What the database gets for these messages.
    fn pass(prepared: &mut Prepared, known: &mut Known, messages: &[(u8, &str)]) -> Vec<String> {
        let passed = messages.iter().map(|(tag, body)| prepared.pass(&frame(*tag, body), known).frame);
        passed.map(|frame| lossy(&frame.body).replace('\0', "|")).collect()
    }

    fn answer(prepared: &mut Prepared, known: &mut Known, tags: &[u8]) {
        tags.iter().for_each(|tag| prepared.answered(&frame(*tag, ""), known));
    }

    #[test]
    fn what_is_kept_of_a_message_does_not_keep_the_buffer_it_came_in() {
        let (mut prepared, mut known) = (Prepared::new(SessionId(1)), Known::default());
        for (tag, body) in [
            (b'P', "s\0SELECT 1\0\0\0"),
            (b'P', "\0SELECT 2\0\0\0"),
            (b'B', "p\0s\0\0\0\0\0\0\0"),
            (b'E', "p\0\0\0\0\0"),
            (b'C', "Ss\0"),
        ] {
            let frame = frame(tag, body);
            let sql = prepared.pass(&frame, &mut known).executed;
            assert!(frame.body.is_unique(), "{body:?}");
            assert_eq!(sql.as_deref(), (tag == b'E').then_some("SELECT 1"));
        }
    }

    #[test]
    fn a_name_keeps_its_statement_when_another_of_that_name_fails_and_gets_a_new_one_when_it_is_closed() {
        let (mut prepared, mut known) = (Prepared::new(SessionId(7)), Known::default());
        let parse = |sql: &'static str| (b'P', sql);
        let sent = pass(&mut prepared, &mut known, &[parse("s\0SELECT 1\0\0\0"), (b'S', "")]);
        assert_eq!(sent[0], "c7_1|SELECT 1|||");
        answer(&mut prepared, &mut known, b"1Z");
        let sent = pass(&mut prepared, &mut known, &[parse("s\0SELECT 2\0\0\0"), (b'S', "")]);
        assert_eq!(sent[0], "c7_1|SELECT 2|||", "the database refuses it");
        answer(&mut prepared, &mut known, b"EZ");
        let missing = prepared.missing(&Known::default(), &frame(b'B', "\0s\0"));
        assert_eq!(lossy(&missing[0].parse.body), "c7_1\0SELECT 1\0\0\0");
        assert!(prepared.missing(&known, &frame(b'B', "\0s\0")).is_empty());

        // Closed, prepared anew and used in one go.
        let go = [(b'C', "Ss\0"), parse("s\0SELECT 3\0\0\0"), (b'B', "\0s\0"), (b'D', "Ss\0"), (b'S', "")];
        let sent = pass(&mut prepared, &mut known, &go);
        assert_eq!(sent, ["Sc7_1|", "c7_2|SELECT 3|||", "|c7_2|", "Sc7_2|", ""]);
        answer(&mut prepared, &mut known, b"312TZ");
        assert_eq!(known.len(), 1);

        // One that the database has passed over is closed for nobody.
        pass(&mut prepared, &mut known, &[parse("t\0SELECT\0\0\0"), (b'C', "Ss\0"), (b'S', "")]);
        answer(&mut prepared, &mut known, b"EZ");
        assert_eq!(pass(&mut prepared, &mut known, &[(b'B', "\0s\0"), (b'B', "\0t\0")]), ["|c7_2|", "|c7_0|"]);
    }

    #[test]
    fn the_unnamed_statement_is_missing_only_where_it_may_be_used() {
        let (mut prepared, mut known) = (Prepared::new(SessionId(1)), Known::default());
        pass(&mut prepared, &mut known, &[(b'P', "\0SELECT 1\0\0\0"), (b'S', "")]);
        answer(&mut prepared, &mut known, b"1Z");
        let other = Known { unnamed: Some(Bytes::from_static(b"c2_1")), ..Known::default() };
        let missing = |prepared: &Prepared, tag, body| prepared.missing(&other, &frame(tag, body)).len();
        assert_eq!(missing(&prepared, b'B', "\0\0"), 1);
        assert_eq!(missing(&prepared, b'P', "s\0"), 1);
        assert_eq!(missing(&prepared, b'P', "\0"), 0);
        assert_eq!(missing(&prepared, b'S', ""), 0);
        assert_eq!(prepared.missing(&known, &frame(b'B', "\0\0")).len(), 0, "it is there");
        pass(&mut prepared, &mut known, &[(b'Q', "SELECT 2\0")]);
        assert_eq!(missing(&prepared, b'B', "\0\0"), 0, "a text has ended it");
    }
}

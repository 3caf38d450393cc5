//! An event as it travels from a child to its parent.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};
use tracing::Level;
use tracing::field::{Field, Visit};

use crate::wire::buffer::Buffer;
use crate::wire::codec;

/// Bytes of a packet at most.
pub(super) const MOST_BYTES: usize = 16 * 1024;
/// Bytes of a text in it, which is cut to so many, and to fewer if there are too many such.
const LONG_TEXT: usize = 4096;
const SHORT_TEXT: usize = 128;

/// What a child tells.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Record {
    Event(Box<Event>),
    /// For so many there was no room.
    Dropped(u64),
    /// A task has begun a call of its own pool.
    Begun(Box<Begun>),
    /// The call of that number is over.
    Over(u64),
}

/// A call that a task has made of the pool that runs it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Begun {
    pub(super) number: u64,
    /// The call that the task is of, and the outermost that leads to it.
    pub(super) outer: u64,
    pub(super) root: u64,
    /// Of the item that the task was at.
    pub(super) index: Option<u64>,
    pub(super) task: String,
    /// The task's spans in which it was made.
    pub(super) spans: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Event {
    /// The call, or zero, the outermost that leads to it if a task has made it, and the index of the
    /// item.
    pub(super) call: u64,
    pub(super) root: u64,
    pub(super) index: Option<u64>,
    pub(super) level: u8,
    pub(super) name: String,
    pub(super) target: String,
    pub(super) module: Option<String>,
    pub(super) file: Option<String>,
    pub(super) line: Option<u32>,
    /// The child's spans in which it happened, from the outside in.
    pub(super) spans: String,
    pub(super) fields: Vec<(String, Value)>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Value {
    I64(i64),
    U64(u64),
    F64(f64),
    Bool(bool),
    Text(String),
    /// As it shows itself.
    Shown(String),
}

impl Record {
    /// Encodes it as a packet that is not too long.
    pub(super) fn packet(&mut self) -> Option<Vec<u8>> {
        for most in [LONG_TEXT, SHORT_TEXT] {
            match self {
                Self::Event(event) => event.cut(most),
                Self::Begun(begun) => {
                    cut(&mut begun.task, most);
                    cut(&mut begun.spans, most);
                }
                Self::Dropped(_) | Self::Over(_) => {}
            }
            let mut out = Buffer::new();
            out.write(&[super::EVENT]).ok()?;
            codec::encode(self, &mut out).ok()?;
            if out.len() <= MOST_BYTES {
                return Some(out.as_slice().to_vec());
            }
        }
        None
    }

    pub(super) fn from_packet(packet: &[u8]) -> Option<Self> {
        let mut bytes = packet.strip_prefix(&[super::EVENT])?;
        codec::decode(&mut bytes).ok()
    }
}

impl Event {
    fn cut(&mut self, most: usize) {
        cut(&mut self.spans, most);
        for (_, value) in &mut self.fields {
            if let Value::Text(text) | Value::Shown(text) = value {
                cut(text, most);
            }
        }
    }
}

fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
        text.push('…');
    }
}

impl Visit for Event {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, Value::I64(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, Value::U64(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, Value::F64(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, Value::Bool(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, Value::Text(value.to_owned()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, Value::Shown(format!("{value:?}")));
    }
}

impl Event {
    fn add(&mut self, field: &Field, value: Value) {
        self.fields.push((field.name().to_owned(), value));
    }
}

/// The fields of a span, as words behind its name.
pub(super) struct Words(pub(super) String);

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a text does not fail.
        let _ = write!(self.0, " {field}={value:?}");
    }
}

/// A level as a number: the higher, the more there is of it.
pub(super) fn rank(level: Level) -> u8 {
    match level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        _ => 5,
    }
}

/// The level of that rank.
pub(super) fn level(rank: u8) -> Option<Level> {
    match rank {
        1 => Some(Level::ERROR),
        2 => Some(Level::WARN),
        3 => Some(Level::INFO),
        4 => Some(Level::DEBUG),
        5 => Some(Level::TRACE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_is_bounded_and_garbage_is_none() {
        let fields = |len: usize| -> Vec<_> {
            let value = || Value::Text("ä".repeat(len));
            (0..30).map(|n| (format!("f{n}"), value())).collect()
        };
        for len in [0, 10, 1000, 100_000] {
            let event = Event {
                fields: fields(len),
                ..Event::default()
            };
            let packet = Record::Event(Box::new(event)).packet().unwrap();
            assert!(packet.len() <= MOST_BYTES);
            let Some(Record::Event(event)) = Record::from_packet(&packet) else {
                panic!("it is an event");
            };
            assert_eq!(event.fields.len(), 30);
        }
        assert!(Record::from_packet(&[]).is_none());
        assert!(Record::from_packet(&[255; 100]).is_none());
        assert!(Record::from_packet(&[super::super::EVENT, 255, 255, 255]).is_none());
    }
}

//! Where an event came from, as `tracing` wants it: for ever.
//!
//! A subscriber is told of each place once, and filters by it. Here the places are in other processes,
//! mostly of this same program, so there are as many as that has. Isolated workers may name any, so
//! only so many are kept; events of others come from a place that is the same for all of a level.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::subscriber::Interest;
use tracing::{Level, Metadata};
use tracing_core::callsite::{self, Callsite, Identifier};
use tracing_core::field::FieldSet;
use tracing_core::metadata::Kind;

use super::record::{self, Event};

/// Places that are kept, and bytes of their names.
const MOST_SITES: usize = 2048;
const MOST_BYTES: usize = 4 << 20;

/// Fields that each event has beside its own.
pub(super) const OWN_FIELDS: [&str; 5] = ["pid", "worker", "task", "index", "spans"];

/// A place that events come from.
pub(super) struct Site {
    metadata: OnceLock<Metadata<'static>>,
    /// Whether no subscriber wants any.
    is_unwanted: AtomicBool,
}

impl Callsite for Site {
    fn set_interest(&self, interest: Interest) {
        self.is_unwanted
            .store(interest.is_never(), Ordering::Relaxed);
    }

    fn metadata(&self) -> &Metadata<'_> {
        match self.metadata.get() {
            Some(metadata) => metadata,
            None => unreachable!("it is set before anybody sees the place"),
        }
    }
}

/// What makes places different.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    level: u8,
    name: String,
    target: String,
    module: Option<String>,
    file: Option<String>,
    line: Option<u32>,
    fields: Vec<String>,
}

/// The places that are kept.
#[derive(Default)]
pub(super) struct Sites {
    by_key: HashMap<Key, &'static Site>,
    bytes: usize,
}

impl Sites {
    /// The place that an event came from, and whether it is its own; `None` if there is no such
    /// level.
    pub(super) fn of(&mut self, event: &Event) -> Option<(&'static Site, bool)> {
        record::level(event.level)?;
        let own = Key {
            level: event.level,
            name: event.name.clone(),
            target: event.target.clone(),
            module: event.module.clone(),
            file: event.file.clone(),
            line: event.line,
            fields: event.fields.iter().map(|(name, _)| name.clone()).collect(),
        };
        if let Some(&site) = self.by_key.get(&own) {
            return Some((site, true));
        }
        let bytes = self.bytes + own.bytes();
        if self.by_key.len() < MOST_SITES && bytes <= MOST_BYTES {
            self.bytes = bytes;
            return Some((self.add(own), true));
        }
        let any = Key {
            level: event.level,
            name: "event".to_owned(),
            target: "mp".to_owned(),
            module: None,
            file: None,
            line: None,
            fields: vec!["message".to_owned()],
        };
        let known = self.by_key.get(&any).copied();
        Some((known.unwrap_or_else(|| self.add(any)), false))
    }

    fn add(&mut self, key: Key) -> &'static Site {
        let site: &'static Site = Box::leak(Box::new(Site {
            metadata: OnceLock::new(),
            is_unwanted: AtomicBool::new(false),
        }));
        let names = key.fields.iter().map(|name| for_ever(name));
        let names: Vec<_> = names.chain(OWN_FIELDS).collect();
        let fields = FieldSet::new(names.leak(), Identifier(site));
        let metadata = Metadata::new(
            for_ever(&key.name),
            for_ever(&key.target),
            record::level(key.level).unwrap_or(Level::ERROR),
            key.file.as_deref().map(for_ever),
            key.line,
            key.module.as_deref().map(for_ever),
            fields,
            Kind::EVENT,
        );
        let _ = site.metadata.set(metadata);
        self.by_key.insert(key, site);
        callsite::register(site);
        site
    }
}

impl Key {
    fn bytes(&self) -> usize {
        let optional = [&self.module, &self.file].into_iter().flatten();
        let texts = [&self.name, &self.target].into_iter().chain(optional);
        texts.chain(&self.fields).map(String::len).sum()
    }
}

fn for_ever(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

impl Site {
    /// Its description, unless no subscriber wants its events.
    pub(super) fn wanted(&'static self) -> Option<&'static Metadata<'static>> {
        let is_wanted = !self.is_unwanted.load(Ordering::Relaxed);
        self.metadata.get().filter(|_| is_wanted)
    }
}

//! Which agents are there, by their answers to the roll call.

use std::collections::HashMap;

use mp::WorkerStats;

use crate::message::Presence;

/// Calls in a row that an agent may leave unanswered.
const MOST_MISSED: u32 = 4;

/// The agents of one build.
#[derive(Debug, Default)]
pub(crate) struct Roll {
    agents: HashMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    presence: Presence,
    missed: u32,
}

impl Roll {
    /// An agent has answered.
    pub(crate) fn note(&mut self, presence: Presence) {
        let agent = presence.agent.clone();
        self.agents.insert(
            agent,
            Entry {
                presence,
                missed: 0,
            },
        );
    }

    /// The roll is about to be called again.
    pub(crate) fn age(&mut self) {
        self.agents.retain(|_, entry| {
            entry.missed += 1;
            entry.missed <= MOST_MISSED
        });
    }

    /// Nobody is there.
    pub(crate) fn clear(&mut self) {
        self.agents.clear();
    }

    /// Those that are there.
    pub(crate) fn agents(&self) -> impl Iterator<Item = &Presence> {
        self.agents.values().map(|entry| &entry.presence)
    }

    /// Their workers, by machine and name.
    pub(crate) fn crew(&self) -> Vec<WorkerStats> {
        let mut agents: Vec<_> = self.agents().collect();
        agents.sort_by(|one, other| (&one.host, &one.agent).cmp(&(&other.host, &other.agent)));
        let crews = agents.into_iter().flat_map(|agent| &agent.crew);
        crews.cloned().collect()
    }

    /// How many workers they have.
    pub(crate) fn workers(&self) -> usize {
        self.agents().map(|agent| agent.workers).sum()
    }
}

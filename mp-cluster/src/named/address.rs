//! How something that is shared by name travels: as its name, and where that is known.

use mp::Error;
use serde::{Deserialize, Serialize};

use super::cell::Cell;
use super::cluster::Cluster;

/// A name, and where it is known.
#[derive(Serialize, Deserialize)]
pub(super) struct Address {
    /// The server's addresses as the sender knows them, without names and passwords.
    place: String,
    namespace: String,
    name: String,
}

impl Address {
    pub(super) fn of(cell: &Cell) -> Self {
        Self {
            place: cell.core().place.clone(),
            namespace: cell.core().namespace.clone(),
            name: cell.name().to_owned(),
        }
    }

    /// The state of that name.
    pub(super) fn cell(&self, kind: &str) -> Result<Cell, Error> {
        let cluster = Cluster::of(&self.place, &self.namespace)?;
        Cell::new(cluster, kind, &self.name)
    }
}

//! The entrants of procspawn: calls in processes of its own.

use procspawn::JoinHandle;
use serde_bytes::ByteBuf;

use crate::WORKERS;

/// Calls that are under way at once: its pool holds a worker until its result was joined, and
/// blocks for ever when more large ones wait.
const ROOM: usize = WORKERS;

/// Starts a process that does nothing, and joins it.
pub(crate) fn start_and_join(token: u64) -> anyhow::Result<u64> {
    Ok(procspawn::spawn(token, |token| !token).join()?)
}

/// Its pool.
pub(crate) struct Pool(procspawn::Pool);

impl Pool {
    pub(crate) fn new(workers: usize) -> anyhow::Result<Self> {
        Ok(Self(procspawn::Pool::new(workers)?))
    }

    /// One call, waited for.
    pub(crate) fn call(&self, x: u64) -> anyhow::Result<u64> {
        Ok(self.0.spawn(x, |x| x * x + 1).join()?)
    }

    /// As a user would write a map by hand: a call for each chunk, with as many at once as there
    /// are workers.
    pub(crate) fn map(&self, items: &[u64], chunk: usize) -> anyhow::Result<Vec<u64>> {
        let mut results = Vec::with_capacity(items.len());
        self.stream(
            items.chunks(chunk).map(<[u64]>::to_vec),
            |items: Vec<u64>| items.into_iter().map(|x| x * x + 1).collect::<Vec<_>>(),
            |chunk| results.extend(chunk),
        )?;
        Ok(results)
    }

    /// Large items, each changed in its first byte.
    pub(crate) fn flip(&self, items: &[Vec<u8>]) -> anyhow::Result<Vec<Vec<u8>>> {
        let mut results = Vec::with_capacity(items.len());
        self.stream(
            items.iter().map(|item| ByteBuf::from(item.as_slice())),
            |mut item: ByteBuf| {
                item[0] ^= 0xFF;
                item
            },
            |item| results.push(item.into_vec()),
        )?;
        Ok(results)
    }

    fn stream<A, R>(
        &self,
        arguments: impl Iterator<Item = A>,
        call: fn(A) -> R,
        mut receive: impl FnMut(R),
    ) -> anyhow::Result<()>
    where
        A: serde::Serialize + serde::de::DeserializeOwned,
        R: serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
    {
        let mut running: std::collections::VecDeque<JoinHandle<R>> = Default::default();
        for argument in arguments {
            if running.len() == ROOM
                && let Some(first) = running.pop_front()
            {
                receive(first.join()?);
            }
            running.push_back(self.0.spawn(argument, call));
        }
        for handle in running {
            receive(handle.join()?);
        }
        Ok(())
    }
}

//! The entrants of ipc-channel: consumers in another process, which `mp` starts.

use anyhow::Context;
use ipc_channel::ipc::{
    self, IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcReceiver, IpcSender,
};
use mp::{AnyError, Child, Process};
use serde::{Deserialize, Serialize};

use crate::payload;
use crate::queue::FIRST;
use crate::race::Sample;

/// Our ends of the channels: what to consume, how much of it, and how much of that was right.
#[derive(Serialize, Deserialize)]
struct Ends<S> {
    items: S,
    counts: IpcSender<u64>,
    rights: IpcReceiver<u64>,
}

/// A process that consumes from ipc-channel. Dropping it ends it.
struct Consumer<S> {
    /// None once the process is to end.
    ends: Option<Ends<S>>,
    process: Child<Result<(), AnyError>>,
}

impl<S> Drop for Consumer<S> {
    fn drop(&mut self) {
        self.ends = None;
        let _ = self.process.join();
    }
}

/// The consumer's half: makes the channels, sends their other ends, and answers each count.
fn serve<S, R>(
    name: String,
    channel: impl Fn() -> std::io::Result<(S, R)>,
    is_right: impl Fn(&R, u64) -> bool,
) -> Result<(), AnyError>
where
    S: Serialize,
{
    let (items, items_out) = channel()?;
    let (counts, counts_out) = ipc::channel()?;
    let (rights_in, rights) = ipc::channel()?;
    IpcSender::connect(name)?.send(Ends {
        items,
        counts,
        rights,
    })?;
    while let Ok(count) = counts_out.recv() {
        let right = (0..count).filter(|&index| is_right(&items_out, index));
        rights_in.send(right.count() as u64)?;
    }
    Ok(())
}

impl<S> Consumer<S>
where
    S: for<'de> Deserialize<'de> + Serialize,
{
    fn start(
        start: impl FnOnce(String) -> Result<Child<Result<(), AnyError>>, mp::Error>,
    ) -> anyhow::Result<Self> {
        let (server, name) = IpcOneShotServer::new()?;
        let process = start(name)?;
        let (_, ends) = server.accept()?;
        Ok(Self {
            ends: Some(ends),
            process,
        })
    }

    fn measure(
        &mut self,
        count: u64,
        produce: impl FnOnce(&S) -> anyhow::Result<()>,
    ) -> anyhow::Result<Sample> {
        let ends = self.ends.as_ref().context("the consumer has ended")?;
        let (sample, right) = Sample::of(count, || {
            ends.counts.send(count)?;
            produce(&ends.items)?;
            Ok::<_, anyhow::Error>(ends.rights.recv()?)
        });
        payload::check(count, right?)?;
        Ok(sample)
    }
}

#[mp::task]
fn consume_numbers(name: String) -> Result<(), AnyError> {
    serve(
        name,
        ipc::channel::<u64>,
        |items: &IpcReceiver<u64>, index| items.recv().is_ok_and(|item| item == FIRST + index),
    )
}

/// Consumes the numbers from [`FIRST`] on.
pub(crate) struct NumberConsumer(Consumer<IpcSender<u64>>);

impl NumberConsumer {
    pub(crate) fn start() -> anyhow::Result<Self> {
        Consumer::start(|name| Process::new(consume_numbers, (name,)).start()).map(Self)
    }

    pub(crate) fn measure(&mut self, count: u64) -> anyhow::Result<Sample> {
        self.0.measure(count, |items| {
            (0..count).try_for_each(|index| Ok(items.send(FIRST + index)?))
        })
    }
}

#[mp::task]
fn consume_ipc_bytes(name: String) -> Result<(), AnyError> {
    serve(
        name,
        ipc::bytes_channel,
        |items: &IpcBytesReceiver, index| {
            items
                .recv()
                .is_ok_and(|item| payload::is_marked(&item, index))
        },
    )
}

/// Consumes items of [`payload::SIZE`].
pub(crate) struct BytesConsumer(Consumer<IpcBytesSender>);

impl BytesConsumer {
    pub(crate) fn start() -> anyhow::Result<Self> {
        Consumer::start(|name| Process::new(consume_ipc_bytes, (name,)).start()).map(Self)
    }

    pub(crate) fn measure(&mut self, count: u64) -> anyhow::Result<Sample> {
        let mut item = vec![0; payload::SIZE];
        self.0.measure(count, |items| {
            for index in 0..count {
                payload::mark(&mut item, index);
                items.send(&item)?;
            }
            Ok(())
        })
    }
}

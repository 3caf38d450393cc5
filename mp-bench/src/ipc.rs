//! The entrants of ipc-channel: consumers in another process, which `mp` starts.

use ipc_channel::ipc::{
    self, IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcReceiver, IpcSender,
};
use mp::{AnyError, Process, TaskFn};
use serde::{Deserialize, Serialize};

use crate::consumer::{Consumer, Tally};
use crate::payload;
use crate::queue::FIRST;

/// A consumer that makes the channel and sends our end of it.
fn start<S, F>(task: F) -> anyhow::Result<Consumer<S>>
where
    S: for<'de> Deserialize<'de> + Serialize,
    F: TaskFn<(String, Tally), Output = Result<(), AnyError>>,
{
    Consumer::start(|tally| {
        let (server, name) = IpcOneShotServer::new()?;
        let process = Process::new(task, (name, tally)).start()?;
        let (_, items) = server.accept()?;
        Ok((items, process))
    })
}

/// A consumer of the numbers from [`FIRST`] on.
pub(crate) fn of_numbers() -> anyhow::Result<Consumer<IpcSender<u64>>> {
    start(consume_numbers)
}

/// A consumer of items of [`payload::SIZE`].
pub(crate) fn of_bytes() -> anyhow::Result<Consumer<IpcBytesSender>> {
    start(consume_bytes)
}

#[mp::task]
fn consume_numbers(name: String, tally: Tally) -> Result<(), AnyError> {
    let (items, items_out): (_, IpcReceiver<u64>) = ipc::channel()?;
    IpcSender::connect(name)?.send(items)?;
    tally.answer(|index| items_out.recv().is_ok_and(|item| item == FIRST + index))
}

#[mp::task]
fn consume_bytes(name: String, tally: Tally) -> Result<(), AnyError> {
    let (items, items_out): (_, IpcBytesReceiver) = ipc::bytes_channel()?;
    IpcSender::connect(name)?.send(items)?;
    tally.answer(|index| {
        let item = items_out.recv();
        item.is_ok_and(|item| payload::is_marked(&item, index))
    })
}

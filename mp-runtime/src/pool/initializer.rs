//! The call that each worker makes first, and why it failed.

use super::region::Memory;
use super::wire;
use crate::error::TaskError;
use crate::loom::Ordering;
use crate::process::current_process;
use crate::shm::buffer::Buffer;
use crate::shm::{BlockId, Owner};
use crate::sys;
use crate::task::call::read_record;
use crate::task::effect;
use crate::task::registry;
use crate::wire::codec;

/// Makes the call that `items` hold, in the process that it is for; why it failed, in words.
pub(super) fn run(items: &[u8]) -> Result<(), String> {
    let call = wire::read_items(items).and_then(|(name, mut items)| {
        Some((registry::by_name(name).ok()?, read_record(&mut items)?.1))
    });
    let Some((task, arguments)) = call else {
        return Err("its initializer is no task here".to_owned());
    };
    let limit = task.options.timeout.map(sys::signal::kill_timer);
    let _limit = limit
        .transpose()
        .map_err(|error| format!("the time of its initializer could not be limited: {error}"))?;
    effect::run(task, arguments).map_err(|error: TaskError| {
        let name = current_process().name().to_owned();
        error.with_process(name, std::process::id()).to_string()
    })
}

/// Notes in the pool's memory why an initializer failed. The first failure is told; without memory
/// for it, none is.
pub(super) fn note_failure(memory: &Memory, me: Owner, text: &String) {
    let arena = memory.arena();
    let block = Buffer::in_block(arena.clone(), me, text.len())
        .ok()
        .and_then(|mut out| {
            wire::write_item(&mut out.tail(), |out| codec::append(text, out)).ok()?;
            out.into_block().ok()
        });
    let Some(block) = block else { return };
    arena.set_owner(block.id(), me, memory.parent());
    let word = &memory.header().initializer_failure;
    // Release: pairs with the Acquire in `failure`.
    let told = word.compare_exchange(0, block.id().bits(), Ordering::Release, Ordering::Relaxed);
    if told.is_err() {
        arena.free(block.id());
    }
}

/// When a worker ended that was not through with it, in words; `None` if workers have none.
pub(super) fn not_through(memory: &Memory) -> Option<String> {
    let header = memory.header();
    // Relaxed: set before there are workers.
    let block = header.initializer.load(Ordering::Relaxed);
    let len = header.initializer_len.load(Ordering::Relaxed) as usize;
    let (name, _) = wire::read_items(memory.bytes(block, len)?)?;
    let limit = registry::by_name(name).ok()?.options.timeout;
    let limit = limit.map(|limit| format!(", which may take {limit:?}"));
    let limit = limit.unwrap_or_default();
    Some(format!(
        "before its initializer \"{name}\" was through{limit}"
    ))
}

/// Why an initializer failed, if one did.
pub(super) fn failure(memory: &Memory) -> Option<String> {
    let word = &memory.header().initializer_failure;
    let block = BlockId::from_bits(word.load(Ordering::Acquire))?;
    let mut bytes = memory.bytes(block.bits(), usize::MAX)?;
    let (_, mut text) = read_record(&mut bytes)?;
    codec::decode(&mut text).ok()
}

//! A child as its parent's threads share it: watched by the supervisor, joined by anybody.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::limits;
use super::spawn::OnEnd;
use super::supervisor;
use crate::deadline::Deadline;
use crate::life::Program;
use crate::life::program::existing;
use crate::life::slot::State;
use crate::shm::{BlockId, ObjectId};
use crate::spans;
use crate::sync::raw::{Bell, Holder};
use crate::sys;
use crate::sys::process::{OUT_OF_MEMORY, Status};
use crate::trace::{self, Lane, Span};
use crate::wait::Source;

/// Bytes of a captured standard error that an error shows.
const TAIL: usize = 8 * 1024;

/// Bytes that are read from it at a time, and that a pipe holds unless somebody enlarged it.
const DRAUGHT: usize = 4096;
const PIPE: usize = 64 * 1024;

/// Last words of a child that are kept at most.
const MOST_WORDS: usize = 4096;
/// Packets that are taken from one that has ended: more than there is room for in a socket.
const MOST_PACKETS: usize = 4096;

/// What a child says of itself.
struct Voice {
    /// Our end of the socket whose end of file is the child's end. Nothing is ever written to it.
    /// Closed when the child is settled.
    socket: Option<OwnedFd>,
    /// Why it refused to begin, or how it ended.
    words: Vec<u8>,
}

impl Voice {
    /// Takes what has arrived, so many packets at most: last words are kept, events returned, and
    /// whether more may come.
    fn listen(&mut self, most: usize) -> (Vec<Vec<u8>>, bool) {
        let mut events = Vec::new();
        let Some(socket) = &self.socket else {
            return (events, false);
        };
        // Room is made only for what is there, which of most children is nothing.
        match sys::fd::has_bytes(socket.as_fd()) {
            None => return (events, false),
            Some(false) => return (events, true),
            Some(true) => {}
        }
        let mut room = vec![0; 4 * MOST_WORDS];
        for _ in 0..most {
            match sys::fd::receive_now(socket.as_fd(), &mut room) {
                Ok(0) => return (events, false),
                Ok(len) if room[0] == spans::EVENT => events.push(room[..len].to_vec()),
                Ok(len) => {
                    let room_left = MOST_WORDS.saturating_sub(self.words.len());
                    self.words.extend_from_slice(&room[..len.min(room_left)]);
                }
                Err(error) => return (events, error.kind() == std::io::ErrorKind::WouldBlock),
            }
        }
        (events, true)
    }
}

/// A child that was started.
pub(crate) struct Running {
    pub(crate) name: String,
    /// The task it runs; empty for a pool's worker.
    pub(crate) task: String,
    pub(crate) holder: Holder,
    pub(crate) pid: u32,
    pidfd: OwnedFd,
    voice: Mutex<Voice>,
    /// The call that it was started for, until it is settled.
    call: Mutex<Option<spans::Call>>,
    pub(crate) is_daemon: bool,
    /// When it was started, as the timeline has it; zero without one.
    began: u64,
    /// Until when it must have shaken hands.
    pub(super) start_by: Option<Instant>,
    /// It did not, and was killed for it.
    is_late: AtomicBool,
    /// This process killed it.
    is_killed: AtomicBool,
    /// Processes that the kernel had killed for want of memory when it began.
    kills: u64,
    stdin: Mutex<Option<OwnedFd>>,
    stdout: Mutex<Option<OwnedFd>>,
    stderr: Mutex<Stderr>,
    ended: Mutex<Option<Ended>>,
    /// Nobody will ask for the result. Changed and read under the lock of `ended`.
    is_unwanted: AtomicBool,
    on_end: Mutex<Option<OnEnd>>,
    /// Threads that wait for the end.
    joiners: AtomicU32,
    /// Whether its end wakes the supervisor.
    is_watched: AtomicBool,
}

/// How a child ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) status: Status,
    /// Whether it had shaken hands, so that its task may have started.
    pub(crate) has_begun: bool,
    /// Why it refused to begin, in its own words, or why it was not let begin.
    pub(crate) refused: Option<String>,
    /// The encoded result: block, bytes that count, and parcel.
    pub(crate) outcome: Option<(BlockId, usize)>,
    pub(crate) parcel: Option<BlockId>,
    pub(crate) stderr_tail: Option<String>,
    /// Whether there is a sign that its memory was used up.
    pub(crate) out_of_memory: bool,
}

/// Who sees to what a child leaves. None of it is user code.
pub(crate) trait Heir {
    /// Looks at what the next process in the child's slot would overwrite. The child has ended; what is
    /// called here must take no lock under which somebody waits for it.
    fn look(&mut self, child: &Running);
    /// Does what is to be done, once, when it is known how the child ended.
    fn settle(self: Box<Self>, child: &Running, ended: &Ended);
}

impl Ended {
    /// What is known of it in a copy made by `fork`, whose child it is not.
    const UNKNOWN: Self = Self {
        status: Status::Unknown,
        has_begun: true,
        refused: None,
        outcome: None,
        parcel: None,
        stderr_tail: None,
        out_of_memory: false,
    };

    /// How one ended that could not be watched, and was killed for it.
    pub(crate) const KILLED_UNSEEN: Self = Self {
        status: Status::Signaled {
            signal: sys::signal::KILL,
            core: false,
        },
        ..Self::UNKNOWN
    };

    /// Frees the result.
    fn give_back(&mut self, program: &Program) {
        if let Some((block, _)) = self.outcome.take() {
            program.arena.free(block);
        }
        if let Some(parcel) = self.parcel.take() {
            program.table.discard(&program.arena, parcel);
        }
    }
}

/// A standard error that is captured.
#[derive(Default)]
struct Stderr {
    pipe: Option<File>,
    /// What was drained so far, or the end of it.
    drained: Vec<u8>,
    is_captured: bool,
}

impl Running {
    #[expect(
        clippy::too_many_arguments,
        reason = "it has that many parts, and one maker"
    )]
    pub(super) fn new(
        name: String,
        task: String,
        holder: Holder,
        pid: u32,
        pidfd: OwnedFd,
        socket: OwnedFd,
        call: Option<spans::Call>,
        [stdin, stdout, stderr]: [Option<OwnedFd>; 3],
        is_daemon: bool,
        start_timeout: Duration,
        on_end: Option<OnEnd>,
    ) -> Self {
        Self {
            name,
            task,
            holder,
            pid,
            pidfd,
            voice: Mutex::new(Voice {
                socket: Some(socket),
                words: Vec::new(),
            }),
            call: Mutex::new(call),
            is_daemon,
            began: trace::timeline().map_or(0, |_| sys::clock::now()),
            start_by: Instant::now().checked_add(start_timeout),
            is_late: AtomicBool::new(false),
            is_killed: AtomicBool::new(false),
            kills: sys::process::recent_out_of_memory_kills(),
            stdin: Mutex::new(stdin),
            stdout: Mutex::new(stdout),
            stderr: Mutex::new(Stderr {
                is_captured: stderr.is_some(),
                pipe: stderr.map(File::from),
                drained: Vec::new(),
            }),
            ended: Mutex::new(None),
            is_unwanted: AtomicBool::new(false),
            on_end: Mutex::new(on_end),
            joiners: AtomicU32::new(0),
            is_watched: AtomicBool::new(true),
        }
    }

    /// The descriptor that becomes readable when the child ends.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Sends a signal; one that has ended is left alone.
    pub(crate) fn signal(&self, signal: i32) {
        if self.settle().is_none() {
            if signal == sys::signal::KILL {
                self.is_killed.store(true, Ordering::Relaxed);
            }
            // It may end in this moment: then there is nobody to tell.
            let _ = sys::process::pidfd_signal(self.pidfd(), signal);
        }
    }

    /// Whether this process killed it.
    pub(crate) fn is_killed(&self) -> bool {
        self.is_killed.load(Ordering::Relaxed)
    }

    /// Waits for the end; `None` if the deadline comes first.
    ///
    /// Without a deadline a standard input that nobody has taken is closed: nobody else will, and the
    /// child may wait for its end.
    pub(crate) fn wait(&self, deadline: Deadline) -> Option<Ended> {
        if deadline == Deadline::NEVER {
            drop(self.take_stdin());
        }
        self.joiners.fetch_add(1, Ordering::SeqCst);
        let mut ended = self.settle();
        if ended.is_none() && deadline == Deadline::NEVER {
            // Whoever waits without a deadline sees the end and settles it. The supervisor would be
            // woken by the same end, and be in the way.
            supervisor::leave_to_joiner(self);
        }
        while ended.is_none() && !deadline.has_passed() {
            // An error would be one of memory: the next round looks again.
            let _ = sys::fd::wait_readable(&[self.pidfd()], deadline.remaining());
            ended = self.settle();
        }
        self.joiners.fetch_sub(1, Ordering::SeqCst);
        // Once more: the supervisor may have left it to us after we looked.
        ended.or_else(|| self.settle())
    }

    /// Whether somebody waits for the end and settles it then: the supervisor would only be in its
    /// way.
    pub(super) fn is_joined(&self) -> bool {
        // SeqCst: it reads the count after it saw the end, a joiner looks for the end after it
        // left the count; one of the two sees the other.
        self.joiners.load(Ordering::SeqCst) > 0
    }

    /// Whether its end wakes the supervisor; from now on it does not. Once, to whoever asks first, who is
    /// to see to that.
    pub(super) fn end_watch(&self) -> bool {
        // Relaxed: it is about the descriptor alone, which is open as long as this is borrowed.
        self.is_watched.swap(false, Ordering::Relaxed)
    }

    /// If the child has ended, gives back what it held and keeps what came of it; once, whoever
    /// finds out first.
    pub(crate) fn settle(&self) -> Option<Ended> {
        let Some(program) = existing() else {
            return Some(Ended::UNKNOWN);
        };
        let mut ended = lock(&self.ended);
        if ended.is_some() {
            return ended.clone();
        }
        let status = match sys::process::reap(self.pidfd(), self.pid, false) {
            Ok(status) => status?,
            Err(_) => Status::Unknown,
        };
        let slot = program.roster.slot(self.holder.slot());
        let has_begun = slot.state().0 != State::Reserved;
        // Orphans are taken over before the slot that names their parent is free for another.
        supervisor::adopt(program, self.holder);
        program.bury(self.holder);
        let outcome = BlockId::from_bits(slot.outcome.load(Ordering::Acquire));
        let len = slot.outcome_len.load(Ordering::Relaxed) as usize;
        // Without an outcome the parcel, if there is one, was freed with the child.
        let parcel =
            outcome.and_then(|_| BlockId::from_bits(slot.outcome_parcel.load(Ordering::Relaxed)));
        // Acquire: pairs with the Release in the handler that wrote it.
        let noted = slot.out_of_memory.load(Ordering::Acquire) == 1;
        if let Some(heir) = &mut *lock(&self.on_end) {
            heir.look(self);
        }
        program.release_slot(self.holder);
        let said = self.last_words();
        let noted = noted || said.as_deref() == Some(OUT_OF_MEMORY);
        let said = said.filter(|said| said != OUT_OF_MEMORY);
        // One that shook hands after it was found late was killed like any other.
        let refused = if self.is_late.load(Ordering::Relaxed) && !has_begun {
            Some("it did not shake hands in time".to_owned())
        } else {
            said
        };
        let stderr_tail = self.stderr_tail();
        let by_us = self.is_killed.load(Ordering::Relaxed) || self.is_late.load(Ordering::Relaxed);
        let kills = || sys::process::out_of_memory_kills().saturating_sub(self.kills);
        let tail = stderr_tail.as_deref();
        let out_of_memory = limits::is_out_of_memory(status, noted, by_us, tail, kills);
        let mut settled = Ended {
            status,
            has_begun: has_begun && refused.is_none(),
            refused,
            outcome: outcome.map(|block| (block, len)),
            parcel,
            stderr_tail,
            out_of_memory,
        };
        if self.is_unwanted.load(Ordering::Relaxed) {
            settled.give_back(program);
        }
        *ended = Some(settled.clone());
        drop(ended);
        // Those of our threads that wait for this and other things.
        let doorbell = &program.roster.my_slot().doorbell;
        doorbell.ring_all(program.roster);
        supervisor::forget(self);
        self.note(status);
        let heir = lock(&self.on_end).take();
        if let Some(heir) = heir {
            heir.settle(self, &settled);
        }
        Some(settled)
    }

    /// Gives back the memory of the result, now or when there is one: nobody will ask for it.
    pub(super) fn give_up_result(&self) {
        let Some(program) = existing() else { return };
        let mut ended = lock(&self.ended);
        // Relaxed: the lock orders it.
        self.is_unwanted.store(true, Ordering::Relaxed);
        if let Some(ended) = &mut *ended {
            ended.give_back(program);
        }
    }

    /// Adds a child that ran one task to the timeline; a worker's jobs are there already.
    fn note(&self, status: Status) {
        let Some(timeline) = trace::timeline().filter(|_| !self.task.is_empty()) else {
            return;
        };
        let span = Span {
            task: self.task.clone(),
            began: self.began,
            ended: sys::clock::now(),
            items: 0..1,
            is_done: status == Status::Exited(0),
            caller: None,
        };
        let lane = Lane {
            name: self.name.clone(),
            pid: self.pid,
        };
        timeline.add(&lane, span);
    }

    /// Whether it was found ended; it may have ended without.
    pub(super) fn is_settled(&self) -> bool {
        lock(&self.ended).is_some()
    }

    /// Kills a child that has not shaken hands by its time.
    pub(super) fn enforce_start(&self) {
        let Some(program) = existing() else { return };
        let (state, generation) = program.roster.slot(self.holder.slot()).state();
        if state == State::Reserved && generation == self.holder.generation() {
            self.is_late.store(true, Ordering::Relaxed);
            let _ = sys::process::pidfd_signal(self.pidfd(), sys::signal::KILL);
        }
    }

    /// What the child, which has ended, said on its socket.
    fn last_words(&self) -> Option<String> {
        let mut voice = lock(&self.voice);
        let (events, _) = voice.listen(MOST_PACKETS);
        voice.socket = None;
        let words = std::mem::take(&mut voice.words);
        drop(voice);
        spans::keep(self, events);
        // Ends when this does: its events are on their way.
        let _call = lock(&self.call).take();
        (!words.is_empty()).then(|| String::from_utf8_lossy(&words).into_owned())
    }

    /// The events that have arrived, so many at most; `None` if no more will.
    #[cfg(feature = "tracing")]
    pub(crate) fn take_events(&self, most: usize) -> Option<Vec<Vec<u8>>> {
        let (events, is_open) = lock(&self.voice).listen(most);
        (is_open || !events.is_empty()).then_some(events)
    }

    /// A copy of its socket, unless it is settled.
    #[cfg(feature = "tracing")]
    pub(crate) fn socket(&self) -> Option<OwnedFd> {
        lock(&self.voice).socket.as_ref()?.try_clone().ok()
    }

    // Streams.

    pub(super) fn take_stdin(&self) -> Option<OwnedFd> {
        lock(&self.stdin).take()
    }

    pub(super) fn take_stdout(&self) -> Option<OwnedFd> {
        lock(&self.stdout).take()
    }

    /// The captured standard error: what was drained, and the pipe with the rest.
    pub(super) fn take_stderr(&self) -> Option<(Vec<u8>, OwnedFd)> {
        // A copy made by `fork` shares the supervisor's set of descriptors with its parent.
        existing()?;
        let mut stderr = lock(&self.stderr);
        let pipe = OwnedFd::from(stderr.pipe.take()?);
        stderr.is_captured = false;
        supervisor::stop_draining(pipe.as_fd());
        Some((std::mem::take(&mut stderr.drained), pipe))
    }

    /// Whether the supervisor is to drain the standard error.
    pub(super) fn with_stderr(&self, run: impl FnOnce(BorrowedFd<'_>)) {
        if let Some(pipe) = &lock(&self.stderr).pipe {
            run(pipe.as_fd());
        }
    }

    /// Reads some of what is there, so that the child is not held up, and returns how many bytes;
    /// `None` at the end.
    pub(super) fn drain_stderr(&self) -> Option<usize> {
        let mut stderr = lock(&self.stderr);
        let pipe = stderr.pipe.as_ref()?;
        // Under the lock: what another thread has read meanwhile must not be waited for.
        if !sys::fd::wait_readable(&[pipe.as_fd()], Some(Duration::ZERO)).unwrap_or(false) {
            return Some(0);
        }
        let mut buffer = [0; DRAUGHT];
        let read = (&*pipe).read(&mut buffer).unwrap_or(0);
        stderr.drained.extend_from_slice(&buffer[..read]);
        let excess = stderr.drained.len().saturating_sub(8 * TAIL);
        stderr.drained.drain(..excess);
        (read > 0).then_some(read)
    }

    fn stderr_tail(&self) -> Option<String> {
        // As much as a pipe holds: a grandchild that goes on writing must not hold us up.
        for _ in 0..PIPE / DRAUGHT {
            if matches!(self.drain_stderr(), None | Some(0)) {
                break;
            }
        }
        let stderr = lock(&self.stderr);
        stderr.is_captured.then(|| {
            let from = stderr.drained.len().saturating_sub(TAIL);
            String::from_utf8_lossy(&stderr.drained[from..]).into_owned()
        })
    }
}

impl Source for Running {
    fn is_ready(&self) -> bool {
        self.settle().is_some()
    }

    /// Its end rings our own doorbell, by whoever settles it: the supervisor, if nobody else does.
    fn bell(&self) -> Option<(ObjectId, &Bell)> {
        None
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(program) = existing() else { return };
        let ended = self
            .ended
            .get_mut()
            .unwrap_or_else(|poison| poison.into_inner());
        if let Some(ended) = ended {
            ended.give_back(program);
        }
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running")
            .field("name", &self.name)
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No user code runs under these locks, so a poisoned one is as good as any.
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}

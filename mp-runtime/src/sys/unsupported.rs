//! A platform that `mp` does not know yet: all the names of the contract, and nothing behind them.
//!
//! A program compiles and runs until it asks for shared memory or a process; the answer is then
//! [`std::io::ErrorKind::Unsupported`]. What needs a descriptor or a mapping can't be reached, and
//! what only makes a good process better does nothing.

use std::io;

/// No error has this number.
pub(crate) const ENOMEM: i32 = -1;
/// Nor this.
pub(crate) const ESRCH: i32 = -2;

/// The answer.
fn unsupported<T>() -> io::Result<T> {
    let text = "mp does not support this platform yet";
    Err(io::Error::new(io::ErrorKind::Unsupported, text))
}

pub(crate) mod memory {
    use std::{io, ptr::NonNull, sync::atomic::AtomicU32};

    use super::unsupported;
    use crate::sys::fd::{BorrowedFd, OwnedFd};

    /// There is none.
    #[derive(Debug)]
    pub(crate) enum Mapping {}

    impl Mapping {
        pub(crate) fn base(&self) -> NonNull<u8> {
            match *self {}
        }

        pub(crate) fn len(&self) -> usize {
            match *self {}
        }
    }

    pub(crate) fn create_memory(_name: &str, _len: u64) -> io::Result<OwnedFd> {
        unsupported()
    }

    pub(crate) fn expect_writes<T>(_memory: &mut [std::mem::MaybeUninit<T>]) {}

    pub(crate) fn punch_hole(_fd: BorrowedFd<'_>, _offset: u64, _len: u64) -> io::Result<()> {
        unsupported()
    }

    pub(crate) fn map(_fd: BorrowedFd<'_>) -> io::Result<Mapping> {
        unsupported()
    }

    pub(crate) fn fork_page() -> io::Result<&'static AtomicU32> {
        unsupported()
    }
}

pub(crate) mod futex {
    use std::{sync::atomic::AtomicU32, thread, time::Duration};

    use crate::sys::futex::Wait;

    /// Returns for no reason, which callers reckon with.
    pub(crate) fn wait(_word: &AtomicU32, _expected: u32, _timeout: Option<Duration>) -> Wait {
        thread::yield_now();
        Wait::Interrupted
    }

    pub(crate) fn wake(_word: &AtomicU32, _n: u32) -> usize {
        0
    }
}

pub(crate) mod fd {
    use std::io;

    use super::unsupported;
    use crate::sys::fd::{BorrowedFd, OwnedFd, RawFd};

    pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
        unsupported()
    }

    pub(crate) fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
        unsupported()
    }

    #[cfg(feature = "tracing")]
    pub(crate) fn send_now(_socket: RawFd, _packet: &[u8]) -> bool {
        false
    }

    pub(crate) fn receive_now(_socket: BorrowedFd<'_>, _room: &mut [u8]) -> io::Result<usize> {
        unsupported()
    }

    pub(crate) fn has_bytes(_socket: BorrowedFd<'_>) -> Option<bool> {
        None
    }

    pub(crate) fn send_all(_socket: BorrowedFd<'_>, _bytes: &[u8]) -> io::Result<()> {
        unsupported()
    }

    pub(crate) fn send_some(_socket: BorrowedFd<'_>, _bytes: &[u8]) -> io::Result<usize> {
        unsupported()
    }

    pub(crate) fn inherited(_fd: RawFd) -> io::Result<OwnedFd> {
        unsupported()
    }

    pub(crate) fn event_counter() -> io::Result<OwnedFd> {
        unsupported()
    }

    pub(crate) fn count_event(_counter: &OwnedFd) -> io::Result<()> {
        unsupported()
    }

    pub(crate) fn clear_events(_counter: &OwnedFd) {}
}

pub(crate) mod packet {
    use std::io;

    use super::unsupported;
    use crate::sys::fd::{BorrowedFd, OwnedFd};

    pub(crate) fn packet_pair() -> io::Result<(OwnedFd, OwnedFd)> {
        unsupported()
    }

    pub(crate) fn send_packet(
        _socket: BorrowedFd<'_>,
        _bytes: &[u8],
        _fds: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        unsupported()
    }

    pub(crate) fn receive_packet(
        _socket: BorrowedFd<'_>,
        _max: usize,
    ) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        unsupported()
    }
}

pub(crate) mod fork {
    use std::{ffi::CString, io};

    use super::{memory::Mapping, unsupported};
    use crate::sys::fd::{BorrowedFd, OwnedFd};

    pub(crate) fn std_stream(_number: usize) -> Option<BorrowedFd<'static>> {
        None
    }

    pub(crate) fn working_directory() -> io::Result<OwnedFd> {
        unsupported()
    }

    pub(crate) fn enter_directory(_directory: BorrowedFd<'_>) -> io::Result<()> {
        unsupported()
    }

    pub(crate) enum Forked {
        Original,
        Sibling,
    }

    pub(crate) fn fork_sibling(_memory: &Mapping, _offset: u64) -> io::Result<Forked> {
        unsupported()
    }

    pub(crate) fn settle_before_forks() -> io::Result<()> {
        unsupported()
    }

    pub(crate) fn rehearse_exit() {}

    pub(crate) fn replace_std_streams(_streams: [Option<OwnedFd>; 3]) -> io::Result<()> {
        unsupported()
    }

    pub(crate) fn replace_environment(_entries: impl Iterator<Item = CString>) {}
}

pub(crate) mod command {
    pub(crate) fn end_with_us(_command: &mut std::process::Command) {}
}

pub(crate) mod poll {
    use std::{io, time::Duration};

    use super::unsupported;
    use crate::sys::fd::BorrowedFd;

    pub(crate) fn wait_readable(
        _fds: &[BorrowedFd<'_>],
        _timeout: Option<Duration>,
    ) -> io::Result<bool> {
        unsupported()
    }

    pub(crate) fn wait_writable(
        _fd: BorrowedFd<'_>,
        _timeout: Option<Duration>,
    ) -> io::Result<bool> {
        unsupported()
    }

    /// There is none.
    #[derive(Debug)]
    pub(crate) enum Poller {}

    impl Poller {
        pub(crate) fn new() -> io::Result<Poller> {
            unsupported()
        }

        pub(crate) fn add(&self, _fd: BorrowedFd<'_>, _token: u64) -> io::Result<()> {
            match *self {}
        }

        pub(crate) fn remove(&self, _fd: BorrowedFd<'_>) -> io::Result<()> {
            match *self {}
        }

        pub(crate) fn wait(
            &self,
            _tokens: &mut Vec<u64>,
            _timeout: Option<Duration>,
        ) -> io::Result<()> {
            match *self {}
        }

        pub(crate) fn wake(&self) -> io::Result<()> {
            match *self {}
        }
    }
}

pub(crate) mod process {
    use std::{ffi::CString, io};

    use super::unsupported;
    use crate::sys::{
        fd::{BorrowedFd, OwnedFd},
        process::{Fingerprint, Spawn, Status},
    };

    pub(crate) fn spawn(_spawn: &Spawn<'_>) -> io::Result<u32> {
        unsupported()
    }

    pub(crate) fn is_main_thread() -> bool {
        false
    }

    pub(crate) fn pidfd_open(_pid: u32) -> io::Result<OwnedFd> {
        unsupported()
    }

    pub(crate) fn pidfd_signal(_pidfd: BorrowedFd<'_>, _signal: i32) -> io::Result<()> {
        unsupported()
    }

    pub(crate) fn reap(
        _pidfd: BorrowedFd<'_>,
        _pid: u32,
        _block: bool,
    ) -> io::Result<Option<Status>> {
        unsupported()
    }

    pub(crate) fn kill_unwatched(_pid: u32) {}

    pub(crate) fn start_time(_pid: u32) -> io::Result<u64> {
        unsupported()
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Tick;

    impl Tick {
        pub(crate) fn now() -> Tick {
            Tick
        }

        pub(crate) fn if_now(self) -> Option<Tick> {
            None
        }

        pub(crate) fn number(self) -> u64 {
            0
        }

        pub(crate) fn from_number(_number: u64) -> Tick {
            Tick
        }
    }

    pub(crate) fn start_time_within(_pid: u32, _only: Option<Tick>) -> io::Result<u64> {
        unsupported()
    }

    pub(crate) fn is_gone(_pid: u32, _start: u64) -> bool {
        false
    }

    pub(crate) fn raise_oom_score(_pid: u32) {}

    pub(crate) fn own_fingerprint() -> io::Result<Fingerprint> {
        unsupported()
    }

    pub(crate) fn executable() -> io::Result<(CString, Fingerprint)> {
        unsupported()
    }

    pub(crate) fn exit_now(code: i32) -> ! {
        std::process::exit(code)
    }

    pub(crate) fn kill_self() -> ! {
        std::process::abort()
    }

    #[cfg(feature = "faults")]
    pub(crate) fn stop_self() {
        std::process::abort()
    }

    pub(crate) fn on_exit(_f: extern "C" fn()) -> io::Result<()> {
        unsupported()
    }
}

pub(crate) mod clock {
    pub(crate) fn now() -> u64 {
        0
    }
}

pub(crate) mod ending {
    use std::io;

    use super::unsupported;
    use crate::sys::fd::OwnedFd;

    pub(crate) fn announce(_signal: i32, _counter: &'static OwnedFd) -> io::Result<bool> {
        unsupported()
    }
}

pub(crate) mod limits {
    use std::{io, thread};

    use super::unsupported;

    pub(crate) fn memory_limit() -> u64 {
        u64::MAX
    }

    pub(crate) fn file_size_limit() -> Option<u64> {
        None
    }

    pub(crate) fn cpu_count() -> usize {
        thread::available_parallelism().map_or(1, usize::from)
    }

    pub(crate) fn current_cpu() -> Option<u32> {
        None
    }

    pub(crate) fn affinity() -> io::Result<Vec<usize>> {
        unsupported()
    }

    pub(crate) fn set_affinity(_cpus: &[usize]) -> io::Result<()> {
        unsupported()
    }

    pub(crate) fn nice() -> io::Result<i32> {
        unsupported()
    }

    pub(crate) fn set_nice(_nice: i32) -> io::Result<()> {
        unsupported()
    }
}

pub(crate) mod rlimit {
    use std::io;

    use super::unsupported;
    use crate::sys::process::{Resource, Sign};

    pub(crate) fn limit(_resource: Resource, _most: u64) -> io::Result<()> {
        unsupported()
    }

    pub(crate) fn own_memory() -> io::Result<u64> {
        unsupported()
    }

    pub(crate) fn private_memory() -> io::Result<u64> {
        unsupported()
    }

    pub(crate) fn note_out_of_memory(_limit: u64, _sign: Sign) -> io::Result<()> {
        unsupported()
    }

    pub(crate) fn out_of_memory_kills() -> u64 {
        0
    }

    pub(crate) fn recent_out_of_memory_kills() -> u64 {
        0
    }
}

#[cfg(feature = "sandbox")]
pub(crate) mod sandbox {
    use std::io;
    use std::path::PathBuf;

    use super::unsupported;

    pub(crate) fn check() -> io::Result<()> {
        unsupported()
    }

    pub(crate) fn enter(_read: &[PathBuf], _write: &[PathBuf]) -> io::Result<()> {
        unsupported()
    }
}

pub(crate) mod net {
    use std::io;
    use std::os::fd::BorrowedFd;
    use std::os::unix::net::{SocketAddr, UnixStream};
    use std::time::Duration;

    use super::unsupported;

    pub(crate) fn connect_unix(
        _address: &SocketAddr,
        _timeout: Option<Duration>,
    ) -> io::Result<UnixStream> {
        unsupported()
    }

    pub(crate) fn keep_alive(_socket: BorrowedFd<'_>) -> io::Result<()> {
        unsupported()
    }

    pub(crate) fn send_now(
        _socket: BorrowedFd<'_>,
        _parts: &[io::IoSlice<'_>],
    ) -> io::Result<usize> {
        unsupported()
    }

    pub(crate) fn random(_bytes: &mut [u8]) -> io::Result<()> {
        unsupported()
    }

    pub(crate) fn abstract_address(_name: &[u8]) -> io::Result<SocketAddr> {
        unsupported()
    }
}

pub(crate) mod signal {
    use std::{io, time::Duration};

    use super::unsupported;
    use crate::sys::fd::BorrowedFd;

    pub(crate) fn arm_parent_death(_parent: u32) -> bool {
        false
    }

    pub(crate) fn block_signals() {}

    pub(crate) fn die_with(_socket: BorrowedFd<'_>) -> io::Result<()> {
        unsupported()
    }

    pub(crate) fn kill_self_after(_time: Duration) -> io::Result<()> {
        unsupported()
    }

    pub(crate) fn kill_timer(_time: Duration) -> io::Result<()> {
        unsupported()
    }

    pub(crate) fn leave_to_parent(_signal: i32) -> io::Result<()> {
        unsupported()
    }

    pub(crate) fn signal_name(_signal: i32) -> Option<&'static str> {
        None
    }
}

pub(crate) mod startup {
    use crate::sys::startup::Claim;

    pub(crate) fn claim() -> Option<&'static Claim> {
        None
    }

    pub(crate) fn check_program() -> Result<(), &'static str> {
        Err("mp does not support this platform yet")
    }
}

/// What `std::os::fd` has on Unix, for systems without descriptors. No value of these types exists.
///
/// Compiled everywhere, so that any machine can see that it does.
#[cfg_attr(unix, expect(dead_code, reason = "std's own are used there"))]
pub(crate) mod stand_in {
    use std::{convert::Infallible, marker::PhantomData};

    pub(crate) type RawFd = i32;

    #[derive(Debug)]
    pub(crate) struct OwnedFd(Infallible);

    #[derive(Clone, Copy, Debug)]
    pub(crate) struct BorrowedFd<'a>(Infallible, PhantomData<&'a OwnedFd>);

    pub(crate) trait AsFd {
        fn as_fd(&self) -> BorrowedFd<'_>;
    }

    impl AsFd for OwnedFd {
        fn as_fd(&self) -> BorrowedFd<'_> {
            match self.0 {}
        }
    }

    impl AsFd for BorrowedFd<'_> {
        fn as_fd(&self) -> BorrowedFd<'_> {
            *self
        }
    }

    pub(crate) trait AsRawFd {
        fn as_raw_fd(&self) -> RawFd;
    }

    impl AsRawFd for OwnedFd {
        fn as_raw_fd(&self) -> RawFd {
            match self.0 {}
        }
    }

    impl AsRawFd for BorrowedFd<'_> {
        fn as_raw_fd(&self) -> RawFd {
            match self.0 {}
        }
    }
}

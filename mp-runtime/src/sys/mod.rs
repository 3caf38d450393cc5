//! The only code that talks to the operating system, and here the only lines that name one.
//!
//! What a platform provides is listed below, noun by noun; a platform is a sibling file with these
//! names. `unsupported` has all of them too, so that a program that uses `mp` compiles everywhere
//! and is told at run time.

mod claim;

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(mp_unsupported)
))]
#[path = "linux/mod.rs"]
mod platform;

#[cfg(not(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(mp_unsupported)
)))]
#[path = "unsupported.rs"]
mod platform;

/// Numbers of the errors "not enough memory, or addresses" and "no such process" of
/// [`std::io::Error`].
pub(crate) use self::platform::{ENOMEM, ESRCH};

/// Shared memory: created without a name, sealed, mapped, given back page by page.
pub(crate) mod memory {
    pub(crate) use super::platform::{
        limits::{file_size_limit, memory_limit},
        memory::{Mapping, create_memory, expect_writes, fork_page, map, punch_hole},
    };
}

/// What a process can give up for good.
#[cfg(feature = "sandbox")]
pub(crate) mod sandbox {
    pub(crate) use super::platform::sandbox::{check, enter};
}

/// What time it is, for all processes alike.
pub(crate) mod clock {
    pub(crate) use super::platform::clock::now;
}

/// Waiting for a shared word to change.
pub(crate) mod futex {
    pub(crate) use super::platform::futex::{wait, wake};

    /// Why [`wait`] returned.
    ///
    /// None of them says anything about the word by now: the caller reads it again in every case.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Wait {
        /// Somebody called [`wake`], or the thread was woken for no reason.
        Woken,
        /// The word did not hold the expected value, so the thread did not sleep.
        Changed,
        /// The timeout passed.
        TimedOut,
        /// A signal handler ran.
        Interrupted,
    }
}

/// Descriptors: making them, waiting on them, and what a child finds at 0 to 2.
pub(crate) mod fd {
    #[cfg(feature = "tracing")]
    pub(crate) use super::platform::fd::send_now;
    #[cfg(not(unix))]
    pub(crate) use super::platform::stand_in::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
    pub(crate) use super::platform::{
        fd::{
            clear_events, count_event, event_counter, has_bytes, inherited, pipe, receive_now,
            send_all, send_some, socket_pair,
        },
        fork::{std_stream, working_directory},
        packet::{packet_pair, receive_packet, send_packet},
        poll::{Poller, wait_readable, wait_writable},
    };
    #[cfg(unix)]
    #[cfg_attr(
        not(mp_unsupported),
        expect(unused_imports, reason = "for the stand-ins")
    )]
    pub(crate) use std::os::fd::OwnedFd;
    pub(crate) use std::os::fd::{BorrowedFd, RawFd};
}

/// What connections between programs need beyond std's sockets.
pub(crate) mod net {
    pub(crate) use super::platform::net::{
        abstract_address, connect_unix, keep_alive, random, send_now,
    };
}

/// Forking for another process, and making the copy what a process that was started anew would be.
pub(crate) mod fork {
    pub(crate) use super::platform::fork::{
        Forked, enter_directory, fork_sibling, rehearse_exit, replace_environment,
        replace_std_streams, settle_before_forks,
    };
}

/// Starting this program again as another process, and seeing how that ends.
pub(crate) mod process {
    use std::ffi::{CStr, CString};

    #[cfg(feature = "faults")]
    pub(crate) use super::platform::process::{kill_self, stop_self};
    pub(crate) use super::{
        claim::Fingerprint,
        platform::{
            command::end_with_us,
            limits::{affinity, cpu_count, current_cpu, nice, set_affinity, set_nice},
            process::{
                Tick, executable, exit_now, is_gone, is_main_thread, kill_unwatched, on_exit,
                own_fingerprint, pidfd_open, pidfd_signal, raise_oom_score, reap, spawn,
                start_time, start_time_within,
            },
            rlimit::{
                limit, note_out_of_memory, out_of_memory_kills, own_memory, private_memory,
                recent_out_of_memory_kills,
            },
        },
    };

    /// What [`spawn`] starts.
    #[derive(Debug)]
    pub(crate) struct Spawn<'a> {
        /// The program's file; not looked up in `PATH`.
        pub(crate) path: &'a CStr,
        /// Its arguments, the first of which is its name.
        pub(crate) argv: &'a [CString],
        /// Its whole environment, as `NAME=value`.
        pub(crate) envp: &'a [CString],
        /// One entry more.
        pub(crate) variable: Option<&'a CStr>,
        /// What it gets as descriptors 0 to 2; `None` is what this process has there.
        pub(crate) stdio: [Option<super::fd::BorrowedFd<'a>>; 3],
        /// Further descriptors that it gets, under the numbers they have here: from 3 upwards.
        pub(crate) inherit: &'a [super::fd::BorrowedFd<'a>],
    }

    /// What a process can be limited in; see [`limit`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Resource {
        /// Bytes of memory that is its own.
        Memory,
        /// Seconds of processor time.
        CpuSeconds,
        /// Descriptors at once.
        OpenFiles,
        /// Bytes of each file that it writes.
        FileSize,
    }

    /// Where a process notes that it ends for want of memory.
    #[derive(Clone, Copy, Debug)]
    pub(crate) enum Sign {
        /// A word that its parent reads: set to 1.
        Word(&'static std::sync::atomic::AtomicU32),
        /// A socket that its parent reads: [`OUT_OF_MEMORY`] is sent.
        Socket(super::fd::RawFd),
    }

    /// What a process says that ends for want of memory.
    pub(crate) const OUT_OF_MEMORY: &str = "\u{1}out of memory";

    /// How a process ended.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Status {
        /// It exited, with this code.
        Exited(i32),
        /// A signal killed it.
        Signaled {
            /// Which one.
            signal: i32,
            /// Whether it left a core dump.
            core: bool,
        },
        /// It is gone, but somebody else was told how: code of this program that waits for any
        /// child, or its real parent.
        Unknown,
    }
}

/// Signals that a child arms, ignores or handles.
pub(crate) mod signal {
    /// Asks a process to stop what it does.
    pub(crate) const INTERRUPT: i32 = 2;
    /// Comes when the CPU time is used up.
    pub(crate) const CPU_TIME: i32 = 24;
    /// Ends a process, whatever it does.
    pub(crate) const KILL: i32 = 9;
    /// Asks a process to end.
    pub(crate) const TERMINATE: i32 = 15;

    pub(crate) use super::platform::{
        ending::announce,
        signal::{
            arm_parent_death, block_signals, die_with, kill_self_after, kill_timer,
            leave_to_parent, signal_name,
        },
    };
}

/// How a program that was executed again finds out that it is a child.
pub(crate) mod startup {
    pub(crate) use super::{
        claim::{Claim, Extra, VARIABLE},
        platform::startup::{check_program, claim},
    };
}

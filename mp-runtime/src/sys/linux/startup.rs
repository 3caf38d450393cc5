//! The constructor: how this program, executed again, notices that it is a child before `main`.
//!
//! It *claims* at most: it takes the variable out of the environment, and if that names our real
//! parent, keeps what it says as a [`Claim`]. Where the parent passed `mp::init()`, that is all, and
//! the child takes over in its own `init()`. Elsewhere it takes over here, after the constructors that
//! are still due: inventory's entries and C++'s globals are made by such, in an order that changes
//! with the linker and with link-time optimisation.
//!
//! # Safety
//!
//! Runs before `main` on a process's only thread. The variable is from the environment and may say
//! anything; the bounds of the array of constructors are the linker's.

#![expect(
    unsafe_code,
    reason = "runs before main, by and among the linker's tables"
)]

use std::{
    arch::asm,
    env,
    io::{self, Write},
    mem, panic, process, ptr,
    sync::OnceLock,
};

use super::{
    fd::{close_on_exec, maker_of, open_std_streams},
    process::exit_now,
    signal::{arm_parent_death, ignore_sigpipe},
};
use crate::sys::claim::{Claim, Extra, VARIABLE};

/// A function that the system calls before `main`, with the program's arguments and environment
/// (glibc) or with nothing (musl).
type Constructor =
    extern "C" fn(libc::c_int, *const *const libc::c_char, *const *const libc::c_char);

/// Makes [`constructor`] one.
#[used]
// SAFETY: the section is an array of such function pointers.
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: Constructor = constructor;

/// What our parent told us; empty in a process that `mp` did not start.
static CLAIM: OnceLock<Claim> = OnceLock::new();

/// The exit code of a child that refuses to begin.
const REFUSED: i32 = 125;

/// The exit code of a child whose taking over panicked, as of a `main` that does.
const PANICKED: i32 = 101;

/// Returns what this process's parent told it, if `mp` started it.
pub(crate) fn claim() -> Option<&'static Claim> {
    CLAIM.get()
}

/// Says why this program, executed again, would not notice that it is a child, and so may not
/// start any: the child would run its `main`.
pub(crate) fn check_program() -> Result<(), &'static str> {
    // Neither changes as long as the process lives.
    static FOUND: OnceLock<Result<(), &str>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        if is_privileged() {
            return Err("a setuid or setgid program can't start processes of mp");
        }
        if !in_main_executable() {
            return Err(
                "mp is in a shared library here: it can start processes only where it is linked \
                 into the program itself",
            );
        }
        Ok(())
    })
}

/// Runs in every process with `mp` in it, so nearly always it only looks for the variable.
extern "C" fn constructor(
    argc: libc::c_int,
    argv: *const *const libc::c_char,
    envp: *const *const libc::c_char,
) {
    let Some(value) = env::var_os(VARIABLE) else {
        return;
    };
    // In a shared library we may be under the loader's lock, where a new thread would hang.
    if is_privileged() || !in_main_executable() {
        return;
    }
    // Also a variable that is not for us goes: it can be for no process that we start.
    // SAFETY: before `main`, no other thread reads or writes the environment.
    unsafe { env::remove_var(VARIABLE) };
    // What isn't UTF-8 or names no parent is none of ours.
    let Some(value) = value.to_str() else { return };
    let Some(parent) = Claim::parent_of(value) else {
        return;
    };
    // SAFETY: has no preconditions.
    if parent != unsafe { libc::getppid() } as u32 {
        // Not for us, unless we are an orphan already: then `main` is not ours to run.
        if is_orphan(parent, value) {
            exit_now(REFUSED);
        }
        return;
    }
    open_std_streams();
    let claim = match Claim::parse(value) {
        Ok(claim) => CLAIM.get_or_init(|| claim),
        Err(reason) => {
            let _ = writeln!(io::stderr(), "mp: can't begin as a child process: {reason}");
            exit_now(REFUSED);
        }
    };
    for fd in [Some(claim.socket), claim.arena, claim.extra.map(Extra::fd)]
        .into_iter()
        .flatten()
    {
        // One that did not arrive is missed when the child takes over.
        let _ = close_on_exec(fd);
    }
    if !arm_parent_death(parent) {
        exit_now(REFUSED);
    }
    if claim.by_init {
        return;
    }

    run_later_constructors(argc, argv, envp);
    // Rust's runtime does this on the way to `main`, where we never come.
    ignore_sigpipe();
    let escaped = panic::catch_unwind(|| -> () { crate::process::child::take_over(claim) });
    // The hook has reported the panic. Its payload is not dropped, since that might panic again.
    mem::forget(escaped);
    process::exit(PANICKED);
}

/// Returns whether `parent`, which is not our parent, was when it started us, and has ended since.
///
/// The socket in the variable tells, because the kernel remembers who made it. In a process to which
/// the variable strayed there is no such socket.
fn is_orphan(parent: u32, value: &str) -> bool {
    Claim::socket_of(value)
        .and_then(|socket| maker_of(socket).ok())
        .is_some_and(|maker| maker == parent)
}

/// Returns whether this program has more rights than who started it, who must not steer it by
/// the environment.
fn is_privileged() -> bool {
    // SAFETY: takes and returns integers.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Returns whether this code is part of the program's own file, and not of a shared library.
pub(super) fn in_main_executable() -> bool {
    let mut found = false;
    // SAFETY: the callback has the type that is asked for, and gets its data as it was passed.
    unsafe { libc::dl_iterate_phdr(Some(first_object), ptr::from_mut(&mut found).cast()) };
    found
}

/// Looks for this code in the object it is called with, and ends the iteration: the first object
/// is the program itself.
unsafe extern "C" fn first_object(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    found: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: `dl_iterate_phdr` passes a description that is valid during the call.
    let info = unsafe { &*info };
    // SAFETY: `in_main_executable` passes a `bool` that it does not touch meanwhile.
    let found = unsafe { &mut *found.cast::<bool>() };
    // SAFETY: `dlpi_phdr` points to `dlpi_phnum` program headers of an object that is loaded.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    let own = (constructor as Constructor as usize) as u64;
    *found = headers
        .iter()
        .filter(|header| header.p_type == libc::PT_LOAD)
        .any(|header| {
            let start = info.dlpi_addr.wrapping_add(header.p_vaddr);
            own.wrapping_sub(start) < header.p_memsz
        });
    const STOP: libc::c_int = 1;
    STOP
}

/// Calls the program's constructors that come after ours.
///
/// This process never returns from ours, so that nobody calls them again.
fn run_later_constructors(
    argc: libc::c_int,
    argv: *const *const libc::c_char,
    envp: *const *const libc::c_char,
) {
    let mut entries = init_array();
    let own = constructor as Constructor as usize;
    // Up to and with ours; if the linker told no bounds there is nothing to look through.
    if !entries.by_ref().any(|entry| entry == own) {
        return;
    }
    // What some linkers leave for an entry that was discarded.
    for entry in entries.filter(|&entry| entry != 0 && entry != usize::MAX) {
        // SAFETY: an entry of the array is a constructor; the loader would have called it next,
        // with these arguments.
        let entry = unsafe { mem::transmute::<usize, Constructor>(entry) };
        entry(argc, argv, envp);
    }
}

/// Returns the program's array of constructors; nothing if its linker does not say where that is.
fn init_array() -> impl Iterator<Item = usize> {
    let [start, end] = init_array_bounds();
    let count = (end.addr() - start.addr()) / size_of::<Constructor>();
    (0..count).map(move |index| {
        // By address and volatile: to the compiler the array is no object, and our entry in it is
        // a static of its own.
        let entry = start.wrapping_add(index);
        // SAFETY: between the bounds that the linker defined, where every word is an entry.
        unsafe { entry.read_volatile() }
    })
}

/// Returns where the program's array of constructors begins and ends, twice null if its linker
/// does not say.
fn init_array_bounds() -> [*const usize; 2] {
    // The symbols are weak, lest a linker that doesn't know them refuses the program. A weak one
    // may be null, which is no distance from here that an instruction could hold, so the two
    // addresses lie in memory, and the instructions find that.
    let bounds: *const [*const usize; 2];
    // SAFETY: writes one register, which it says; the data is in a section of its own, which the
    // loader relocates before any constructor runs.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!(
            ".weak __init_array_start",
            ".hidden __init_array_start",
            ".weak __init_array_end",
            ".hidden __init_array_end",
            ".pushsection .data.rel.ro.mp_init_array, \"aw\", @progbits",
            ".balign 8",
            "77:",
            ".quad __init_array_start",
            ".quad __init_array_end",
            ".popsection",
            "lea {bounds}, [rip + 77b]",
            bounds = out(reg) bounds,
            options(nomem, nostack, preserves_flags),
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!(
            ".weak __init_array_start",
            ".hidden __init_array_start",
            ".weak __init_array_end",
            ".hidden __init_array_end",
            ".pushsection .data.rel.ro.mp_init_array, \"aw\", %progbits",
            ".balign 8",
            "77:",
            ".xword __init_array_start",
            ".xword __init_array_end",
            ".popsection",
            "adrp {bounds}, 77b",
            "add {bounds}, {bounds}, :lo12:77b",
            bounds = out(reg) bounds,
            options(nomem, nostack, preserves_flags),
        );
    }
    // SAFETY: the address of the two words above, which nothing changes after relocation.
    unsafe { bounds.read_volatile() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_is_the_main_executable_and_no_child() {
        assert!(in_main_executable());
        assert_eq!(check_program(), Ok(()));
        assert_eq!(claim(), None);
    }

    #[test]
    fn the_array_of_constructors_holds_ours() {
        let own = constructor as Constructor as usize;
        assert_eq!(init_array().filter(|&entry| entry == own).count(), 1);
    }
}

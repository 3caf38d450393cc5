//! What a process can give up for good: files by Landlock, connections and more by seccomp.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, Scope,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// What is asked for at least: with less a file outside could be cut off (Linux 6.2).
const LEAST: ABI = ABI::V3;
/// What is asked for where the kernel has it: no devices' controls, no signals to others.
const WISH: ABI = ABI::V6;

/// Whether this kernel can do what [`enter`] does, and why not.
pub(crate) fn check() -> io::Result<()> {
    ruleset().map(drop)
}

/// Takes from the calling process, for good, all files but those below `read` and `write`, the
/// network, and other ways out. It must have no other thread.
pub(crate) fn enter(read: &[PathBuf], write: &[PathBuf]) -> io::Result<()> {
    // Both bind the calling thread and those that it starts.
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other(
            "the process has started threads: call `mp::init()` first in `main`",
        ));
    }
    let filter = filter()?;
    let mut rules = ruleset()?;
    for path in read {
        let access = AccessFs::ReadFile | AccessFs::ReadDir;
        rules = allow(rules, path, access)?;
    }
    for path in write {
        let access = AccessFs::from_all(WISH) & !BitFlags::from(AccessFs::Execute);
        rules = allow(rules, path, access)?;
    }
    // Both forbid new privileges first.
    rules.restrict_self().map_err(other)?;
    seccompiler::apply_filter(&filter).map_err(other)
}

fn ruleset() -> io::Result<RulesetCreated> {
    let required = || {
        Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::from_all(LEAST))?
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(WISH))?
            .handle_access(AccessNet::from_all(WISH))?
            .scope(Scope::from_all(WISH))?
            .create()
    };
    required().map_err(other)
}

fn allow(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> io::Result<RulesetCreated> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{path:?}: {error}"));
    let is_dir = path.metadata().map_err(named)?.is_dir();
    let fd = PathFd::new(path).map_err(|error| named(other(error)))?;
    let access = match is_dir {
        true => access,
        false => access & AccessFs::from_file(WISH),
    };
    rules
        .add_rule(PathBeneath::new(fd, access))
        .map_err(|error| named(other(error)))
}

/// System calls that are refused with EPERM. Landlock knows nothing of most of them.
const REFUSED: &[libc::c_long] = &[
    // Connections; what is open already stays. The second one makes calls that no filter sees.
    libc::SYS_socket,
    libc::SYS_io_uring_setup,
    // Other processes' memory and descriptors.
    libc::SYS_ptrace,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_process_madvise,
    // Other views of the system.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_by_handle_at,
    // What parsers need least, and the kernel's faults are in.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
];

/// System calls that are refused unless their first argument names the calling process.
const ON_ITSELF: &[libc::c_long] = &[
    libc::SYS_kill,
    libc::SYS_tgkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
];

/// The same, where zero also names the calling process.
const ON_ITSELF_OR_ZERO: &[libc::c_long] = &[libc::SYS_prlimit64];

/// System calls that signal whoever a number or a descriptor names.
const SIGNALS: &[libc::c_long] = &[libc::SYS_tkill, libc::SYS_pidfd_send_signal];

fn filter() -> io::Result<BpfProgram> {
    let own = u64::from(std::process::id());
    let other_than = |number: u64| {
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, number).map_err(other)
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for &call in REFUSED.iter().chain(SIGNALS) {
        rules.insert(call, Vec::new());
    }
    for &call in ON_ITSELF {
        let rule = SeccompRule::new(vec![other_than(own)?]).map_err(other)?;
        rules.insert(call, vec![rule]);
    }
    for &call in ON_ITSELF_OR_ZERO {
        let rule = SeccompRule::new(vec![other_than(own)?, other_than(0)?]).map_err(other)?;
        rules.insert(call, vec![rule]);
    }
    if cfg!(target_arch = "x86_64") {
        // The same calls by the numbers of the ABI with short pointers, where a kernel has it.
        const X32: i64 = 0x4000_0000;
        let also: Vec<_> = rules
            .iter()
            .map(|(call, rules)| (call | X32, rules.clone()))
            .collect();
        rules.extend(also);
    }
    let arch = match cfg!(target_arch = "x86_64") {
        true => TargetArch::x86_64,
        false => TargetArch::aarch64,
    };
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)
        .and_then(BpfProgram::try_from)
        .map_err(other)
}

fn other(error: impl fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

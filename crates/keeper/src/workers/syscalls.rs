//! Which system calls a worker may make: every one that is known today, without those that are of no use to a program
//! of users and have been ways out of sandboxes before.
//!
//! Two filters, since each can answer in one way only and the kernel takes the stricter answer. The first says that
//! what it does not know does not exist (`ENOSYS`), so that libraries fall back to what they did before it did; so
//! for `clone3`, whose flags no filter can see. The second refuses (`EPERM`). System calls of another architecture,
//! which a filter of numbers would misread, end the process.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

use crate::sandbox::{Failed, While};

/// The last number given out: `file_setattr` of Linux 6.17. From 424 on all architectures count together.
const LAST: i64 = 469;
const COMMON: i64 = 424;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: TargetArch = TargetArch::x86_64;
/// The last of the architecture's own numbers.
#[cfg(target_arch = "x86_64")]
const LAST_OWN: i64 = libc::SYS_rseq;
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[i64] = &[
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS__sysctl,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
    libc::SYS_kexec_file_load,
];

#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: TargetArch = TargetArch::aarch64;
#[cfg(target_arch = "aarch64")]
const LAST_OWN: i64 = libc::SYS_kexec_file_load;
#[cfg(target_arch = "aarch64")]
const REFUSED_HERE: &[i64] = &[libc::SYS_kexec_file_load];

/// `open_tree_attr` of Linux 6.15, younger than the `libc` crate's list.
const OPEN_TREE_ATTR: i64 = 467;

/// Not there.
const ABSENT: &[i64] =
    &[libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// Not allowed.
const REFUSED: &[i64] = &[
    // Another view of files.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    OPEN_TREE_ATTR,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_lookup_dcookie,
    libc::SYS_nfsservctl,
    // Other namespaces.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    libc::SYS_perf_event_open,
    // Code in the kernel, and its faults served by a program.
    libc::SYS_bpf,
    libc::SYS_userfaultfd,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    // Keys are the user's, not the namespace's.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // The machine.
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_vhangup,
];

/// New namespaces, as flags of `clone`.
const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// Both filters, ready to be applied.
pub(super) struct Filters {
    known: BpfProgram,
    refused: BpfProgram,
}

impl Filters {
    /// Compiles them; done once, in the keeper.
    pub(super) fn compile() -> Result<Self, Failed> {
        let known = (0..=LAST_OWN).chain(COMMON..=LAST).filter(|number| !ABSENT.contains(number));
        let known = known.map(|number| (number, Vec::new())).collect();
        let absent = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
        let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
        Ok(Self {
            known: compile(known, absent, SeccompAction::Allow)?,
            refused: compile(refusals()?, SeccompAction::Allow, refused)?,
        })
    }

    /// From here on, for this process and all that come of it.
    pub(super) fn apply(&self) -> Result<(), Failed> {
        apply_filter(&self.known).when("known system calls")?;
        apply_filter(&self.refused).when("refused system calls")
    }
}

fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, Failed> {
    let filter = SeccompFilter::new(rules, otherwise, matched, ARCHITECTURE).when("a filter")?;
    filter.try_into().map_err(|error: seccompiler::BackendError| format!("a filter: {error}"))
}

fn refusals() -> Result<BTreeMap<i64, Vec<SeccompRule>>, Failed> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        REFUSED.iter().chain(REFUSED_HERE).map(|number| (*number, Vec::new())).collect();
    let mut namespaces = Vec::new();
    for flag in NAMESPACES {
        let flag = number(flag);
        namespaces.push(rule(&[(0, SeccompCmpOp::MaskedEq(flag), flag)])?);
    }
    rules.insert(libc::SYS_clone, namespaces);
    // Anything but Linux as it is, and the question which it is.
    let personality = [(0, SeccompCmpOp::Ne, 0), (0, SeccompCmpOp::Ne, u64::from(u32::MAX))];
    rules.insert(libc::SYS_personality, vec![rule(&personality)?]);
    // What a terminal, should one be open, can be told: to type.
    let ioctls = [libc::TIOCSTI, libc::TIOCLINUX];
    let ioctls = ioctls.map(|request| rule(&[(1, SeccompCmpOp::Eq, request)]));
    rules.insert(libc::SYS_ioctl, ioctls.into_iter().collect::<Result<_, _>>()?);
    rules.insert(libc::SYS_socket, socket_refusals()?);
    let pair = [(0, SeccompCmpOp::Ne, number(libc::AF_UNIX))];
    rules.insert(libc::SYS_socketpair, vec![rule(&pair)?]);
    // TLS in the kernel, and whatever else may be put on top of TCP.
    let upper =
        [(1, SeccompCmpOp::Eq, number(libc::IPPROTO_TCP)), (2, SeccompCmpOp::Eq, number(libc::TCP_ULP))];
    rules.insert(libc::SYS_setsockopt, vec![rule(&upper)?]);
    // Huge pages are the host's, in no worker's limit, and may be meant for a server.
    let huge = |argument, flag: u64| rule(&[(argument, SeccompCmpOp::MaskedEq(flag), flag)]);
    rules.insert(libc::SYS_mmap, vec![huge(3, number(libc::MAP_HUGETLB))?]);
    rules.insert(libc::SYS_memfd_create, vec![huge(1, u64::from(libc::MFD_HUGETLB))?]);
    // The limit of core files is 1, with which the kernel starts no program of the host to take one; with 0 it does.
    let core = (SeccompCmpOp::Eq, u64::from(libc::RLIMIT_CORE));
    rules.insert(libc::SYS_setrlimit, vec![rule(&[(0, core.0.clone(), core.1)])?]);
    let sets = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0).when("a rule")?;
    let core = SeccompCondition::new(1, SeccompCmpArgLen::Dword, core.0, core.1).when("a rule")?;
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![core, sets]).when("a rule")?]);
    Ok(rules)
}

/// Sockets that are refused: every family, and every protocol of the internet's, that is not of daily use. Many a
/// kernel loads a module for one that it is asked for.
fn socket_refusals() -> Result<Vec<SeccompRule>, Failed> {
    let allowed = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
    let mut rules = vec![rule(&allowed.map(|family| (0, SeccompCmpOp::Ne, number(family))))?];
    let protocols = [
        // The usual one of the type.
        libc::IPPROTO_IP,
        libc::IPPROTO_TCP,
        libc::IPPROTO_UDP,
        libc::IPPROTO_ICMP,
        libc::IPPROTO_ICMPV6,
    ];
    // Of netlink only what tells the addresses.
    for (family, protocols) in [
        (libc::AF_INET, &protocols[..]),
        (libc::AF_INET6, &protocols[..]),
        (libc::AF_NETLINK, &[libc::NETLINK_ROUTE][..]),
    ] {
        let mut conditions = vec![(0, SeccompCmpOp::Eq, number(family))];
        conditions.extend(protocols.iter().map(|protocol| (2, SeccompCmpOp::Ne, number(*protocol))));
        rules.push(rule(&conditions)?);
    }
    Ok(rules)
}

fn number(constant: i32) -> u64 {
    u64::from(constant.unsigned_abs())
}

/// Matches where all of (argument, comparison, value) hold, of the lower 32 bits, which is all these arguments have.
fn rule(conditions: &[(u8, SeccompCmpOp, u64)]) -> Result<SeccompRule, Failed> {
    let conditions = conditions.iter().map(|(argument, comparison, value)| {
        SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, comparison.clone(), *value)
    });
    let conditions = conditions.collect::<Result<Vec<_>, _>>().when("a rule")?;
    SeccompRule::new(conditions).when("a rule")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_fit_the_kernel_and_name_nothing_twice() {
        let filters = Filters::compile().unwrap();
        // BPF_MAXINSNS of Linux.
        assert!(filters.known.len() < 4096 && filters.refused.len() < 4096);
        let mut all: Vec<i64> = REFUSED.iter().chain(REFUSED_HERE).chain(ABSENT).copied().collect();
        all.sort_unstable();
        let count = all.len();
        all.dedup();
        assert_eq!(all.len(), count);
        assert!(all.iter().all(|number| *number <= LAST));
    }
}

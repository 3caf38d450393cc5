//! Named points at which a test can have a process killed: `MP_FAULT=put.linked` kills it with
//! SIGKILL the first time it gets there, `put.linked:3` the third time; `stop@put.linked` stops it there
//! with SIGSTOP, so that others can do something before it is killed, and `panic@put.linked` has the
//! thread panic.
//!
//! Without the feature `faults` the points do not exist.

/// Dies here if the test asks for it.
macro_rules! fault {
    ($name:literal) => {
        #[cfg(all(feature = "faults", not(loom)))]
        $crate::fault::reached($name);
    };
}
pub(crate) use fault;

/// Dies if `MP_FAULT` names this point and it was reached often enough.
#[cfg(all(feature = "faults", not(loom)))]
pub(crate) fn reached(name: &str) {
    use std::sync::atomic::Ordering;

    let wanted = WANTED.read().ok().and_then(|wanted| wanted.clone());
    let wanted = wanted.unwrap_or_else(|| {
        let text = std::env::var("MP_FAULT").ok();
        let wanted = text.map(|text| match text.split_once(':') {
            Some((name, count)) => (name.to_owned(), count.parse().unwrap_or(1)),
            None => (text, 1),
        });
        if let Ok(mut kept) = WANTED.write() {
            *kept = Some(wanted.clone());
        }
        wanted
    });
    let Some((wanted, count)) = wanted else {
        return;
    };
    let (how, wanted) = wanted.split_once('@').unwrap_or(("", &wanted));
    if wanted == name && SEEN.fetch_add(1, Ordering::Relaxed) + 1 == count {
        match how {
            "stop" => crate::sys::process::stop_self(),
            "panic" => panic!("as the test asks for, at {name}"),
            _ => crate::sys::process::kill_self(),
        }
    }
}

/// What `MP_FAULT` says, once it was read.
#[cfg(all(feature = "faults", not(loom)))]
static WANTED: std::sync::RwLock<Option<Option<(String, u64)>>> = std::sync::RwLock::new(None);
#[cfg(all(feature = "faults", not(loom)))]
static SEEN: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

/// Has the variable read anew: this process, which was forked, got an environment of its own.
#[cfg(not(loom))]
pub(crate) fn reread() {
    #[cfg(feature = "faults")]
    {
        if let Ok(mut kept) = WANTED.write() {
            *kept = None;
        }
        SEEN.store(0, std::sync::atomic::Ordering::Relaxed);
    }
}

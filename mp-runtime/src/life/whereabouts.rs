//! On which CPU somebody runs, as far as is known: whether it pays to look for what that one does.
//!
//! Who looks takes the CPU from whoever runs on the same one. How many CPUs a process may use says
//! nothing of that: two that may use one each may have two.

use crate::loom::{AtomicU64, Ordering};
use crate::shm::safe::shared;
use crate::sys;

shared! {
    /// Where somebody ran last. All zeros is not known.
    #[derive(Default)]
    pub(crate) struct Whereabouts {
        /// The CPU plus one.
        cpu: AtomicU64,
    }
}

impl Whereabouts {
    /// Notes that the calling thread runs where it does.
    #[inline]
    pub(crate) fn note(&self) {
        let here = sys::process::current_cpu().map_or(0, |cpu| u64::from(cpu) + 1);
        // Relaxed, here and below: it is a guess. Not stored without need: others read the line.
        if self.cpu.load(Ordering::Relaxed) != here {
            self.cpu.store(here, Ordering::Relaxed);
        }
    }

    /// Whether that is another CPU than the calling thread's; `None` if one of them is not known.
    #[inline]
    pub(crate) fn is_elsewhere(&self) -> Option<bool> {
        let noted = self.cpu.load(Ordering::Relaxed).checked_sub(1)?;
        let here = sys::process::current_cpu()?;
        Some(noted != u64::from(here))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn elsewhere_is_another_cpu_than_the_noted() {
        let cpus = sys::process::affinity().unwrap();
        let somebody = Whereabouts::default();
        assert_eq!(somebody.is_elsewhere(), None);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                sys::process::set_affinity(&cpus[..1]).unwrap();
                somebody.note();
                assert_eq!(somebody.is_elsewhere(), Some(false));
                if let Some(&other) = cpus.get(1) {
                    sys::process::set_affinity(&[other]).unwrap();
                    assert_eq!(somebody.is_elsewhere(), Some(true));
                }
            });
        });
    }
}

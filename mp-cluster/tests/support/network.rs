//! Machines of their own, as far as addresses go: network namespaces, each with a cable to this one.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// They end with the test.
pub(crate) struct Network {
    /// The names of the namespaces; the cables' ends here are called the same.
    names: Vec<String>,
    /// What their addresses begin with, and where those of this network begin.
    prefix: String,
    first: usize,
}

/// Machines of the networks of this process so far.
static MACHINES: AtomicUsize = AtomicUsize::new(0);

impl Network {
    /// Makes so many; where that is not permitted it says so, and the test is skipped.
    pub(crate) fn new(machines: usize) -> Option<Self> {
        let pid = std::process::id();
        let first = MACHINES.fetch_add(machines, Ordering::Relaxed);
        let mut network = Self {
            names: Vec::new(),
            prefix: format!("10.{}.{}", 64 + (pid >> 8) % 64, pid % 256),
            first,
        };
        for machine in 0..machines {
            let name = format!("mp{pid}-{}", first + machine);
            if let Err(why) = ip(&["netns", "add", &name]) {
                eprintln!("skipped: no network namespaces can be made here: {why}");
                return None;
            }
            network.names.push(name);
            if let Err(why) = network.lay_cable(machine) {
                eprintln!("skipped: no cables between network namespaces: {why}");
                return None;
            }
        }
        Some(network)
    }

    fn lay_cable(&self, machine: usize) -> Result<(), String> {
        let name = self.names[machine].as_str();
        let (here, there) = (self.here(machine), self.there(machine));
        let (here, there) = (format!("{here}/30"), format!("{there}/30"));
        ip(&[
            "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name,
        ])?;
        ip(&["address", "add", &here, "dev", name])?;
        ip(&["link", "set", name, "up"])?;
        ip(&["-n", name, "address", "add", &there, "dev", "eth0"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        ip(&["-n", name, "link", "set", "eth0", "up"])
    }

    /// Our address, as a machine sees it.
    pub(crate) fn here(&self, machine: usize) -> String {
        format!("{}.{}", self.prefix, 4 * (self.first + machine) + 1)
    }

    fn there(&self, machine: usize) -> String {
        format!("{}.{}", self.prefix, 4 * (self.first + machine) + 2)
    }

    /// A command that runs a program on a machine.
    pub(crate) fn command(&self, machine: usize, program: &Path) -> Command {
        let mut command = mp_cluster::command("ip");
        command.args(["netns", "exec", &self.names[machine]]);
        command.arg(program);
        command
    }

    /// Cuts a machine off.
    pub(crate) fn cut(&self, machine: usize) {
        ip(&["link", "set", &self.names[machine], "down"]).expect("the cable is ours");
    }

    /// Ends that.
    pub(crate) fn mend(&self, machine: usize) {
        ip(&["link", "set", &self.names[machine], "up"]).expect("the cable is ours");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in &self.names {
            // The cable ends with it.
            let _ = ip(&["netns", "delete", name]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output();
    let output = output.map_err(|error| format!("ip (of iproute2): {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

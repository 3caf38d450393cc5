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
        run_in(&self.names[machine], program)
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

/// Machines on a switch of their own: each reaches the others, and nothing else. This one reaches none.
/// They end with the test, and so does all that runs on them.
pub(crate) struct Island {
    /// The names of the namespaces; the first is the switch's.
    names: Vec<String>,
}

impl Island {
    /// Makes one with so many machines, whose addresses are `10.0.0.1` and the following; where that is
    /// not permitted it says so, and the test is skipped.
    pub(crate) fn new(machines: usize) -> Option<Self> {
        let mut island = Self { names: Vec::new() };
        let made = (0..=machines).try_for_each(|number| island.add(number));
        if let Err(why) = made {
            eprintln!("skipped: no network of namespaces can be made here: {why}");
            return None;
        }
        Some(island)
    }

    /// Adds the switch, or a machine.
    fn add(&mut self, number: usize) -> Result<(), String> {
        let name = format!("mp{}-island{number}", std::process::id());
        ip(&["netns", "add", &name])?;
        self.names.push(name.clone());
        ip(&["-n", &name, "link", "set", "lo", "up"])?;
        let switch = &self.names[0];
        if number == 0 {
            ip(&["-n", switch, "link", "add", "switch", "type", "bridge"])?;
            return ip(&["-n", switch, "link", "set", "switch", "up"]);
        }
        let (port, address) = (format!("port{number}"), format!("10.0.0.{number}/24"));
        ip(&[
            "-n", switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns",
            &name,
        ])?;
        ip(&["-n", switch, "link", "set", &port, "master", "switch", "up"])?;
        ip(&["-n", &name, "address", "add", &address, "dev", "eth0"])?;
        ip(&["-n", &name, "link", "set", "eth0", "up"])
    }

    /// A command that runs a program on a machine, of which 1 is the first.
    pub(crate) fn command(&self, machine: usize, program: &Path) -> Command {
        run_in(&self.names[machine], program)
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        for name in &self.names {
            if let Ok(pids) = ip_says(&["netns", "pids", name]) {
                for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()) {
                    // SAFETY: takes integers. Who is in it was started there.
                    unsafe { libc::kill(pid, libc::SIGKILL) };
                }
            }
            let _ = ip(&["netns", "delete", name]);
        }
    }
}

fn run_in(namespace: &str, program: &Path) -> Command {
    let mut command = mp_cluster::command("ip");
    command.args(["netns", "exec", namespace]);
    command.arg(program);
    command
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
    ip_says(arguments).map(drop)
}

fn ip_says(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("ip").args(arguments).output();
    let output = output.map_err(|error| format!("ip (of iproute2): {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

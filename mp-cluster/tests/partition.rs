//! Machines that cannot reach the server for a while.

mod support;

use mp_cluster as mp;
use support::network::Network;
use support::{Agent, Marks, Server, all_marked, eventually, square, wait_for};

#[mp::task]
fn pid() -> i32 {
    std::process::id() as i32
}

/// A server that the machines of a network reach, and the address at which each does.
fn server(network: &Network, machines: usize) -> Option<(Server, Vec<String>)> {
    let server = Server::at("0.0.0.0", "jetstream { store_dir: $STORE }", |_| {})?;
    let urls = (0..machines)
        .map(|machine| format!("nats://{}:{}", network.here(machine), server.port()))
        .collect();
    Some((server, urls))
}

fn agent(network: &Network, machine: usize, url: &str) -> Agent {
    Agent::on(network, machine, url, 1)
}

#[test]
fn what_a_machine_was_at_that_is_cut_off_is_run_elsewhere_and_counts_once() {
    let Some(network) = Network::new(2) else {
        return;
    };
    let Some((server, urls)) = server(&network, 2) else {
        return;
    };
    let marks = Marks::new();
    let _first = agent(&network, 0, &urls[0]);
    let pool = server.pool(1);
    let job = pool.submit(wait_for, (marks.path(), 0)).unwrap();
    let cut_off = marks.await_begun(0);
    let _second = agent(&network, 1, &urls[1]);
    network.cut(0);
    eventually("another has it", || marks.begun(0).len() == 2);
    // Both are through with it; the one that is cut off cannot say so.
    marks.go();
    assert_eq!(job.wait().unwrap(), 0);
    network.mend(0);
    eventually("the machine is back", || {
        let there = pool.broadcast(pid, ()).unwrap();
        let mut there = there.into_iter().flatten();
        there.any(|pid| pid == cut_off)
    });
    assert_eq!(pool.stats().done, 1, "its outcome came once");
    assert_eq!(pool.map(square, 0..100).unwrap()[99], 99 * 99);
}

#[test]
fn every_item_has_one_outcome_though_a_machine_is_cut_off_meanwhile() {
    let Some(network) = Network::new(2) else {
        return;
    };
    let Some((server, urls)) = server(&network, 2) else {
        return;
    };
    let _agents = [0, 1].map(|machine| agent(&network, machine, &urls[machine]));
    let pool = server.pool(2);
    let marks = Marks::new();
    let count = 400;
    let items = (0..count).map(|x| (marks.path(), x, 5));
    let results = std::thread::scope(|scope| {
        let calling = scope.spawn(|| all_marked(&pool, items));
        marks.await_begun(count / 4);
        network.cut(0);
        marks.await_begun(count / 2);
        network.mend(0);
        calling.join().unwrap()
    });
    assert!(results.into_iter().eq(0..count));
    assert_eq!(pool.stats().done, count);
}

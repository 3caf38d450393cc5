//! Programs of different versions that work together, as far as they are the same.

extern crate mp as mp_cluster;

#[path = "../../../mp-cluster/tests/support/mod.rs"]
mod support;

use std::path::Path;

use mp::{Connect, Pool};
use support::{Agent, Server};

#[mp::task(name = "mixed.same")]
fn same(x: u64) -> u64 {
    x + 1
}

#[mp::task(name = "mixed.changed")]
fn changed(x: u64) -> u64 {
    x
}

#[mp::task(name = "mixed.gone")]
fn gone(x: u64) -> u64 {
    x
}

#[test]
fn what_differs_is_refused_by_its_name() {
    let Some(server) = Server::start() else {
        return;
    };
    let newer = Path::new(env!("CARGO_BIN_EXE_newer"));
    let _agent = Agent::of_program(newer, &server.url(), |command| {
        command.env("MP_CLUSTER_FINGERPRINT", "fleet-7");
    });
    let mut connection = server.connection();
    connection.fingerprint("fleet-7");
    let pool = Pool::builder().connect(connection).unwrap();
    assert!(pool.map(same, 0..100).unwrap().into_iter().eq(1..101));
    let everywhere = pool.broadcast(same, (1,)).unwrap();
    assert_eq!(*everywhere[0].as_ref().unwrap(), 2);

    let refused = pool.apply(changed, (1,)).unwrap_err().to_string();
    for part in ["mixed.changed", "(i64,) -> u64", "(u64,) -> u64"] {
        assert!(refused.contains(part), "{refused}");
    }
    let refused = pool
        .broadcast(changed, (1,))
        .unwrap()
        .remove(0)
        .unwrap_err();
    assert!(refused.to_string().contains("(i64,) -> u64"), "{refused}");
    let refused = pool.apply(gone, (1,)).unwrap_err();
    assert!(!refused.task().unwrap().may_have_started());
    assert!(refused.to_string().contains("mixed.gone"), "{refused}");

    let mut strange = server.connection();
    strange.fingerprint("a.b");
    let error = Pool::builder().connect(strange).unwrap_err();
    assert!(error.to_string().contains("a fingerprint is"), "{error}");
}

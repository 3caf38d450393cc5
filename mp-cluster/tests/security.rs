//! TLS, and the roles of `deploy/nats.conf`: each can do what it has to, and nothing else.

mod support;

use std::path::Path;
use std::time::Duration;

use mp::named::Cluster;
use mp::{Connect, Connection, Pool};
use mp_cluster as mp;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use support::{Agent, Marks, Server, eventually, length, square, wait_for};

/// Writes an authority's certificate, and one of the server's by it.
fn certify(directory: &Path) {
    let mut authority = CertificateParams::new(vec![]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let certificate = authority.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let server = CertificateParams::new(names).unwrap();
    let server = server.signed_by(&key, &issuer).unwrap();
    for (name, text) in [
        ("authority.pem", certificate.pem()),
        ("server.pem", server.pem()),
        ("server.key", key.serialize_pem()),
    ] {
        std::fs::write(directory.join(name), text).unwrap();
    }
}

/// A server with the configuration that is shipped.
fn server() -> Option<Server> {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/nats.conf");
    let configuration = std::fs::read_to_string(shipped).unwrap();
    let mut configuration = configuration
        .replace("/etc/nats", "$DIR")
        .replace("\"/var/lib/nats\"", "$STORE")
        .replace("listen: \"0.0.0.0:4222\"\n", "");
    for role in ["admin", "submitter", "worker"] {
        let variable = format!("$MP_{}_PASSWORD", role.to_uppercase());
        assert!(configuration.contains(&variable));
        configuration = configuration.replace(&variable, &format!("\"{role}-secret\""));
    }
    Server::prepared(&configuration, certify)
}

/// The way to it as one of the roles.
fn connection(server: &Server, role: &str) -> Connection {
    let mut connection = Connection::new(server.url().replace("nats://", "tls://"));
    connection
        .user(role, format!("{role}-secret"))
        .certificate_authority(server.directory().join("authority.pem"))
        .wait_for_workers(1, Duration::from_secs(60));
    connection
}

fn agent(server: &Server, role: &str) -> Agent {
    let url = server
        .url()
        .replace("nats://", &format!("tls://{role}:{role}-secret@"));
    Agent::with(&url, 1, |command| {
        command.env("MP_CLUSTER_CA", server.directory().join("authority.pem"));
    })
}

#[test]
fn roles_do_what_they_have_to_and_nothing_else() {
    let Some(server) = server() else { return };

    // Before an administrator has made the stream.
    let connect = |role| Pool::builder().connect(connection(&server, role));
    let error = connect("submitter").unwrap_err();
    assert!(error.to_string().contains("an administrator"), "{error}");
    assert_eq!(agent(&server, "worker").join(), Some(1));
    mp::prepare(connection(&server, "admin")).unwrap();
    mp::prepare(connection(&server, "admin")).unwrap();

    // Each in the place of another.
    assert_eq!(agent(&server, "submitter").join(), Some(1));
    let error = connect("worker").unwrap_err();
    assert!(error.to_string().contains("does not permit us"), "{error}");
    assert!(
        mp::prepare(connection(&server, "worker")).is_ok(),
        "all is there"
    );

    // Each in its own.
    let _agent = agent(&server, "worker");
    let pool = connect("submitter").unwrap();
    let squares = pool.map(square, 0..1000).unwrap();
    assert!(squares.into_iter().eq((0..1000).map(|x| x * x)));
    assert_eq!(pool.apply(length, (vec![1; 2 << 20],)).unwrap(), 2 << 20);
    // What waits is taken back.
    let marks = Marks::new();
    let first = pool.submit(wait_for, (marks.path(), 0)).unwrap();
    marks.await_begun(0);
    let job = pool.submit(square, (3,)).unwrap();
    eventually("both are there", || server.tasks() == 2);
    job.cancel();
    eventually("it is taken back", || server.tasks() == 1);
    marks.go();
    assert_eq!(first.wait().unwrap(), 0);
    let everywhere = pool.broadcast(square, (4,)).unwrap();
    assert_eq!(everywhere.len(), 1);
    assert_eq!(*everywhere[0].as_ref().unwrap(), 16);
}

#[test]
fn server_whose_certificate_nobody_vouches_for() {
    let Some(server) = server() else { return };
    let url = server.url().replace("nats://", "tls://");
    let mut stranger = Connection::new(url);
    stranger.user("submitter", "submitter-secret");
    let error = Pool::builder().connect(stranger).unwrap_err();
    assert!(error.is_cluster());
    assert!(error.to_string().contains("ertificate"), "{error}");
}

#[test]
fn roles_share_by_name_what_an_administrator_has_made() {
    let Some(server) = server() else { return };
    let cluster = |role| Cluster::connect(connection(&server, role));
    let error = cluster("worker").unwrap_err();
    assert!(error.to_string().contains("an administrator"), "{error}");
    mp::prepare(connection(&server, "admin")).unwrap();
    let admin = cluster("admin").unwrap();
    admin.bounded_queue::<u32>("orders", 2).unwrap();
    let [one, two] = ["submitter", "worker"].map(|role| cluster(role).unwrap());

    let (ours, theirs) = (one.lock("l").unwrap(), two.lock("l").unwrap());
    std::thread::scope(|scope| {
        let guard = ours.acquire().unwrap();
        let waiting = scope.spawn(|| theirs.acquire().map(|guard| guard.token()));
        let token = guard.token();
        guard.release().unwrap();
        assert!(waiting.join().unwrap().unwrap() > token);
    });
    let ours = one.bounded_queue("orders", 2).unwrap();
    let theirs = two.bounded_queue::<u32>("orders", 2).unwrap();
    ours.put_many([1_u32, 2]).unwrap();
    assert!(ours.try_put(3).unwrap_err().is_full());
    assert_eq!(theirs.get().unwrap(), 1);
    assert_eq!(theirs.get_item().unwrap().commit().unwrap(), 2);
    let error = one.queue::<u32>("another").unwrap_err();
    assert!(error.to_string().contains("an administrator"), "{error}");
    assert!(theirs.close().is_err());
    admin
        .bounded_queue::<u32>("orders", 2)
        .unwrap()
        .close()
        .unwrap();
    assert!(ours.put(4).unwrap_err().is_closed());
}

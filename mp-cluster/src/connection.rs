//! How to reach the server: its address, who we are there, and what we insist on.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use mp::Error;

use crate::error;
use crate::link::LEASE;

/// How long connecting may take, unless told otherwise.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How often the server is asked whether it is there: after two questions without an answer the
/// connection is taken for broken, and another is made.
const PING: Duration = Duration::from_secs(5);
/// How long a pool waits for the server, or for any worker, to come back.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is held by name cannot have a shorter lease: a busy machine would lose it.
const SHORTEST_LEASE: Duration = Duration::from_secs(1);

/// Where the server is, who we are there, and what is expected of it.
///
/// A text is a connection to that address: `"tls://nats.example.org"`, `"nats://127.0.0.1:4222"`;
/// several servers of one cluster are separated by commas. `user:password@` or `token@` may stand in it,
/// where what has a meaning in an address is written as `%40` for `@`.
///
/// A connection without TLS goes to this machine only, since whoever can listen to it could read
/// arguments and results and forge them; [`plain`](Self::plain) permits others.
///
/// # Examples
///
/// ```no_run
/// use std::time::Duration;
///
/// use mp_cluster::{Connect, Connection};
///
/// # fn main() -> mp::Result<()> {
/// let mut connection = Connection::new("tls://nats.example.org");
/// connection
///     .credentials_file("/etc/app/submitter.creds")
///     .wait_for_workers(8, Duration::from_secs(60));
/// let pool = mp::Pool::builder().connect(connection)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Connection {
    pub(crate) url: String,
    user: Option<(String, String)>,
    token: Option<String>,
    nkey: Option<PathBuf>,
    credentials: Option<PathBuf>,
    authorities: Vec<PathBuf>,
    certificate: Option<(PathBuf, PathBuf)>,
    is_plain: bool,
    pub(crate) namespace: String,
    pub(crate) timeout: Duration,
    pub(crate) patience: Duration,
    pub(crate) lease: Duration,
    pub(crate) awaited: Option<(usize, Duration)>,
    pub(crate) replicas: usize,
    pub(crate) health: Option<String>,
    pub(crate) fingerprint: Option<String>,
}

impl Connection {
    /// A connection to the server at `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            user: None,
            token: None,
            nkey: None,
            credentials: None,
            authorities: Vec::new(),
            certificate: None,
            is_plain: false,
            namespace: "default".to_owned(),
            timeout: TIMEOUT,
            patience: PATIENCE,
            lease: LEASE,
            awaited: None,
            replicas: 1,
            health: None,
            fingerprint: None,
        }
    }

    /// The connection that the environment describes, if `MP_CLUSTER` is set to an address.
    ///
    /// | variable | |
    /// |---|---|
    /// | `MP_CLUSTER` | the address |
    /// | `MP_CLUSTER_USER`, `MP_CLUSTER_PASSWORD` | [`user`](Self::user) |
    /// | `MP_CLUSTER_CREDS` | [`credentials_file`](Self::credentials_file) |
    /// | `MP_CLUSTER_NKEY` | [`nkey_file`](Self::nkey_file) |
    /// | `MP_CLUSTER_TOKEN` | [`token`](Self::token) |
    /// | `MP_CLUSTER_CA` | [`certificate_authority`](Self::certificate_authority); several with colons |
    /// | `MP_CLUSTER_CERT`, `MP_CLUSTER_KEY` | [`client_certificate`](Self::client_certificate) |
    /// | `MP_CLUSTER_PLAIN=1` | [`plain`](Self::plain) |
    /// | `MP_CLUSTER_NAMESPACE` | [`namespace`](Self::namespace) |
    /// | `MP_CLUSTER_FINGERPRINT` | [`fingerprint`](Self::fingerprint) |
    /// | `MP_CLUSTER_REPLICAS=n` | [`replicas`](Self::replicas) |
    /// | `MP_HEALTH=address` | [`health`](Self::health) |
    /// | `MP_CLUSTER_WAIT=n` | [`wait_for_workers`](Self::wait_for_workers), a minute at most |
    ///
    /// # Errors
    ///
    /// If one of them makes no sense.
    pub fn from_env() -> Result<Option<Self>, Error> {
        let Some(url) = variable("MP_CLUSTER")? else {
            return Ok(None);
        };
        let mut connection = Self::new(url);
        match (
            variable("MP_CLUSTER_USER")?,
            variable("MP_CLUSTER_PASSWORD")?,
        ) {
            (Some(name), Some(password)) => {
                connection.user(name, password);
            }
            (None, None) => {}
            _ => {
                return Err(error::cluster(
                    "MP_CLUSTER_USER and MP_CLUSTER_PASSWORD belong together: only one of them is set",
                ));
            }
        }
        if let Some(path) = variable("MP_CLUSTER_CREDS")? {
            connection.credentials_file(path);
        }
        if let Some(path) = variable("MP_CLUSTER_NKEY")? {
            connection.nkey_file(path);
        }
        if let Some(token) = variable("MP_CLUSTER_TOKEN")? {
            connection.token(token);
        }
        for path in std::env::split_paths(&variable("MP_CLUSTER_CA")?.unwrap_or_default()) {
            if !path.as_os_str().is_empty() {
                connection.certificate_authority(path);
            }
        }
        match (variable("MP_CLUSTER_CERT")?, variable("MP_CLUSTER_KEY")?) {
            (Some(certificate), Some(key)) => {
                connection.client_certificate(certificate, key);
            }
            (None, None) => {}
            _ => {
                return Err(error::cluster(
                    "MP_CLUSTER_CERT and MP_CLUSTER_KEY belong together: only one of them is set",
                ));
            }
        }
        match variable("MP_CLUSTER_PLAIN")?.as_deref() {
            None | Some("0") => {}
            Some("1") => {
                connection.plain();
            }
            Some(other) => {
                let text = format!("MP_CLUSTER_PLAIN is 0 or 1, not {other:?}");
                return Err(error::cluster(text));
            }
        }
        if let Some(namespace) = variable("MP_CLUSTER_NAMESPACE")? {
            connection.namespace(namespace);
        }
        if let Some(fingerprint) = variable("MP_CLUSTER_FINGERPRINT")? {
            connection.fingerprint(fingerprint);
        }
        if let Some(replicas) = variable("MP_CLUSTER_REPLICAS")? {
            let replicas = replicas.parse().map_err(|_| {
                let text = format!("MP_CLUSTER_REPLICAS is a number of servers, not {replicas:?}");
                error::cluster(text)
            })?;
            connection.replicas(replicas);
        }
        if let Some(address) = variable("MP_HEALTH")? {
            connection.health(address);
        }
        if let Some(workers) = variable("MP_CLUSTER_WAIT")? {
            let workers = workers.parse().map_err(|_| {
                let text = format!("MP_CLUSTER_WAIT is a number of workers, not {workers:?}");
                error::cluster(text)
            })?;
            connection.wait_for_workers(workers, Duration::from_secs(60));
        }
        Ok(Some(connection))
    }

    /// The environment that describes this connection, for the workers of an agent; `None` where a
    /// variable is not to be set.
    pub(crate) fn variables(&self) -> Vec<(&'static str, Option<OsString>)> {
        let path = |path: &PathBuf| path.as_os_str().to_owned();
        let (user, password) = match &self.user {
            Some((user, password)) => (Some(user.into()), Some(password.into())),
            None => (None, None),
        };
        let (certificate, key) = match &self.certificate {
            Some((certificate, key)) => (Some(path(certificate)), Some(path(key))),
            None => (None, None),
        };
        let authorities = match self.authorities.is_empty() {
            true => None,
            // One with a colon in its name cannot be told.
            false => std::env::join_paths(&self.authorities).ok(),
        };
        vec![
            ("MP_CLUSTER", Some(OsString::from(&self.url))),
            ("MP_CLUSTER_USER", user),
            ("MP_CLUSTER_PASSWORD", password),
            ("MP_CLUSTER_TOKEN", self.token.as_ref().map(OsString::from)),
            ("MP_CLUSTER_NKEY", self.nkey.as_ref().map(path)),
            ("MP_CLUSTER_CREDS", self.credentials.as_ref().map(path)),
            ("MP_CLUSTER_CA", authorities),
            ("MP_CLUSTER_CERT", certificate),
            ("MP_CLUSTER_KEY", key),
            ("MP_CLUSTER_PLAIN", self.is_plain.then(|| "1".into())),
            (
                "MP_CLUSTER_NAMESPACE",
                Some(OsString::from(&self.namespace)),
            ),
        ]
    }

    /// Shows who we are by a name and a password.
    pub fn user(&mut self, name: impl Into<String>, password: impl Into<String>) -> &mut Self {
        self.user = Some((name.into(), password.into()));
        self
    }

    /// Shows who we are by a token.
    pub fn token(&mut self, token: impl Into<String>) -> &mut Self {
        self.token = Some(token.into());
        self
    }

    /// Shows who we are by an NKEY, whose seed is in this file.
    pub fn nkey_file(&mut self, path: impl Into<PathBuf>) -> &mut Self {
        self.nkey = Some(path.into());
        self
    }

    /// Shows who we are by a credentials file, as `nsc` makes them.
    pub fn credentials_file(&mut self, path: impl Into<PathBuf>) -> &mut Self {
        self.credentials = Some(path.into());
        self
    }

    /// Trusts the authorities in this PEM file, besides those that the system trusts.
    pub fn certificate_authority(&mut self, path: impl Into<PathBuf>) -> &mut Self {
        self.authorities.push(path.into());
        self
    }

    /// Shows who we are by a certificate and its key, both in PEM files.
    pub fn client_certificate(
        &mut self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> &mut Self {
        self.certificate = Some((certificate.into(), key.into()));
        self
    }

    /// Permits a connection without TLS to another machine: for a network in which everybody is
    /// trusted with everything.
    pub fn plain(&mut self) -> &mut Self {
        self.is_plain = true;
        self
    }

    /// Keeps to a namespace: pools and workers of different ones never meet. It has at most 100
    /// letters. The default is `default`.
    pub fn namespace(&mut self, namespace: impl Into<String>) -> &mut Self {
        self.namespace = namespace.into();
        self
    }

    /// Lets programs work together that say the same here, though their files are not the same: builds
    /// for different processors, or of different versions. The default is a hash of the program's file.
    ///
    /// A task that its worker's program does not have, or whose arguments or result have types of other
    /// names there, is refused by its name. Types of the same name are taken for the same: change the
    /// fingerprint when what is in them changes.
    pub fn fingerprint(&mut self, fingerprint: impl Into<String>) -> &mut Self {
        self.fingerprint = Some(fingerprint.into());
        self
    }

    /// How long connecting may take. The default is five seconds.
    pub fn timeout(&mut self, timeout: Duration) -> &mut Self {
        self.timeout = timeout;
        self
    }

    /// How long a pool with calls under way waits for a server, or for any worker at all, that has
    /// gone: what is out by then is lost. The default is 30 seconds.
    pub fn patience(&mut self, patience: Duration) -> &mut Self {
        self.patience = patience;
        self
    }

    /// How long what this process holds by name stays its own when nothing is heard of it, at least a
    /// second: see [`named::Lock`](crate::named::Lock). The default is five seconds.
    pub fn lease(&mut self, lease: Duration) -> &mut Self {
        self.lease = lease.max(SHORTEST_LEASE);
        self
    }

    /// Has a pool wait until there are so many workers, for at most so long. Otherwise it is an error
    /// if there is none when it is made.
    pub fn wait_for_workers(&mut self, workers: usize, timeout: Duration) -> &mut Self {
        self.awaited = Some((workers, timeout));
        self
    }

    /// Has so many servers of a cluster, 1, 3 or 5, keep what waits, where this connection is the
    /// first to make it: calls go on without a pause of more than seconds as long as most of them are
    /// there. The default is 1. What is there already stays as it is.
    pub fn replicas(&mut self, replicas: usize) -> &mut Self {
        self.replicas = replicas;
        self
    }

    /// Has a worker's process tell over HTTP how it is, at an address such as `0.0.0.0:8080`: `/livez`
    /// is answered as long as it is well, `/readyz` with 200 while it takes tasks, and with 503 while
    /// it has no connection, no worker that could begin, or was asked to end.
    pub fn health(&mut self, address: impl Into<String>) -> &mut Self {
        self.health = Some(address.into());
        self
    }

    /// The addresses, without names and passwords, for messages.
    pub(crate) fn place(&self) -> String {
        let places: Vec<_> = self.addresses().map(|address| address.shown()).collect();
        places.join(", ")
    }

    fn addresses(&self) -> impl Iterator<Item = Address<'_>> {
        self.url.split(',').map(|url| Address::new(url.trim()))
    }

    /// What the client is to be told.
    pub(crate) async fn options(&self) -> Result<async_nats::ConnectOptions, Error> {
        self.check()?;
        let mut options = async_nats::ConnectOptions::new()
            .name("mp")
            .connection_timeout(self.timeout)
            .request_timeout(Some(self.timeout))
            .subscription_capacity(64 * 1024)
            // More than there are publishes under way: while there is no connection nothing is taken from
            // there, and who found no room would wait for the server.
            .client_capacity(64 * 1024)
            .ping_interval(PING)
            .reconnect_delay_callback(|attempts| {
                Duration::from_millis(50 << attempts.min(5)).min(Duration::from_secs(1))
            });
        let in_url = self.addresses().find_map(|address| address.user());
        if let Some((name, password)) = self.user.clone().or(in_url) {
            options = options.user_and_password(name, password);
        }
        let in_url = self.addresses().find_map(|address| address.token());
        if let Some(token) = self.token.clone().or(in_url) {
            options = options.token(token);
        }
        if let Some(path) = &self.nkey {
            let seed = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
            let seed = seed.trim();
            nkeys::KeyPair::from_seed(seed).map_err(|error| {
                let error = std::io::Error::new(std::io::ErrorKind::InvalidData, error);
                unreadable(path, &error)
            })?;
            options = options.nkey(seed.to_owned());
        }
        if let Some(path) = &self.credentials {
            options = options
                .credentials_file(path)
                .await
                .map_err(|error| unreadable(path, &error))?;
        }
        for path in &self.authorities {
            readable(path)?;
            options = options.add_root_certificates(path.clone());
        }
        if let Some((certificate, key)) = &self.certificate {
            readable(certificate)?;
            readable(key)?;
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        if self.addresses().any(|address| address.scheme == "tls") {
            options = options.require_tls(true);
        } else if !self.is_plain {
            // Which may be other machines, without TLS.
            options = options.ignore_discovered_servers();
        }
        Ok(options)
    }

    /// The addresses as the client takes them.
    pub(crate) fn servers(&self) -> Result<Vec<async_nats::ServerAddr>, Error> {
        let parse = |address: Address<'_>| {
            let url = format!("{}://{}", address.scheme, address.host);
            url.parse().map_err(|error| {
                let text = format!("{:?} is no address of a server: {error}", address.shown());
                error::cluster(text)
            })
        };
        self.addresses().map(parse).collect()
    }

    /// Refuses what must not be.
    fn check(&self) -> Result<(), Error> {
        for address in self.addresses() {
            if let Some(why) = address.objection() {
                let text = format!("{:?} is no address of a server: {why}", address.shown());
                return Err(error::cluster(text));
            }
            if !matches!(address.scheme, "nats" | "tls") {
                let text = format!(
                    "{:?} is no address of a server: it begins with nats:// or tls://",
                    address.shown()
                );
                return Err(error::cluster(text));
            }
            if address.host.is_empty() {
                let text = format!(
                    "{:?} is no address of a server: it has no host, as nats://127.0.0.1:4222 has",
                    self.place()
                );
                return Err(error::cluster(text));
            }
            if address.scheme == "nats" && !address.is_here() && !self.is_plain {
                let text = format!(
                    "a connection to {} without TLS could be read and forged on its way: use \
                     tls://, or permit it by `Connection::plain` or MP_CLUSTER_PLAIN=1",
                    address.shown()
                );
                return Err(error::cluster(text));
            }
        }
        check_name("namespace", &self.namespace)?;
        match &self.fingerprint {
            Some(fingerprint) => check_name("fingerprint", fingerprint),
            None => Ok(()),
        }
    }
}

impl From<&str> for Connection {
    fn from(url: &str) -> Self {
        Self::new(url)
    }
}

impl From<String> for Connection {
    fn from(url: String) -> Self {
        Self::new(url)
    }
}

impl From<&mut Connection> for Connection {
    fn from(connection: &mut Connection) -> Self {
        connection.clone()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not what it shows who we are by.
        f.debug_struct("Connection")
            .field("url", &self.place())
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

/// One address.
struct Address<'a> {
    scheme: &'a str,
    /// `name:password`.
    user: Option<&'a str>,
    /// Host and port.
    host: &'a str,
}

impl<'a> Address<'a> {
    fn new(url: &'a str) -> Self {
        let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
        let (user, host) = match rest.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, rest),
        };
        Self { scheme, user, host }
    }

    /// What is wrong with it, as far as one can see.
    fn objection(&self) -> Option<String> {
        let host = self.host;
        if !matches!(self.scheme, "nats" | "tls") || host.is_empty() {
            // That is said elsewhere.
            return None;
        }
        if let Some((scheme @ ("nats" | "tls"), rest)) = host.split_once(':')
            && rest.contains(':')
        {
            return Some(format!(
                "it begins with {scheme}:, and not with {scheme}://"
            ));
        }
        if let Some(at) = host.find(['/', '?', '#']) {
            return Some(format!(
                "it ends with the port, and not with {:?}",
                &host[at..]
            ));
        }
        let (name, port) = match host.strip_prefix('[') {
            Some(rest) => {
                let Some((name, rest)) = rest.split_once(']') else {
                    return Some("there is no ] behind its [".to_owned());
                };
                match rest.strip_prefix(':') {
                    Some(port) => (name, Some(port)),
                    None if rest.is_empty() => (name, None),
                    None => return Some(format!("{rest:?} stands behind its ]")),
                }
            }
            None => match host.split_once(':') {
                Some((_, rest)) if rest.contains(':') => {
                    return Some("an IPv6 address stands in brackets, as in [::1]:4222".to_owned());
                }
                Some((name, port)) => (name, Some(port)),
                None => (host, None),
            },
        };
        if name.is_empty() {
            return Some("it has no host, as nats://127.0.0.1:4222 has".to_owned());
        }
        match port {
            Some(port) => {
                let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
                (!is_port).then(|| format!("{port:?} is no port, which is a number up to 65535"))
            }
            None if host.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(format!("it has no host, as nats://127.0.0.1:{host} has"))
            }
            None => None,
        }
    }

    fn shown(&self) -> String {
        format!("{}://{}", self.scheme, self.host)
    }

    fn user(&self) -> Option<(String, String)> {
        let (name, password) = self.user?.split_once(':')?;
        Some((decoded(name), decoded(password)))
    }

    /// What stands in the place of a name and a password without a `:`.
    fn token(&self) -> Option<String> {
        let token = self.user.filter(|user| !user.contains(':'))?;
        Some(decoded(token))
    }

    /// Whether it is this machine's.
    fn is_here(&self) -> bool {
        let host = match self
            .host
            .strip_prefix('[')
            .and_then(|host| host.split_once(']'))
        {
            Some((host, _)) => host,
            None => self
                .host
                .rsplit_once(':')
                .map_or(self.host, |(host, _)| host),
        };
        let ip = host.parse::<std::net::IpAddr>();
        host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
    }
}

/// What a part of an address means: characters that stand for something else there are written as `%40`
/// for `@`. What makes no sense as such stands for itself.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let code = behind.get(..2).filter(|_| byte == b'%');
        let code = code.and_then(|code| std::str::from_utf8(code).ok());
        let code = code.filter(|code| code.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(code) => {
                bytes.push(code);
                rest = &behind[2..];
            }
            None => {
                bytes.push(byte);
                rest = behind;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

/// Letters that a name may have which becomes a part of names of the server's: those end up as the names
/// of files.
const LONGEST_NAME: usize = 100;

fn check_name(what: &str, name: &str) -> Result<(), Error> {
    let is_fit = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || !name.chars().all(is_fit) {
        let text = format!("a {what} is of letters, digits, `-` and `_`, not {name:?}");
        return Err(error::cluster(text));
    }
    if name.len() > LONGEST_NAME {
        let len = name.len();
        let text = format!("a {what} has at most {LONGEST_NAME} letters, not {len}");
        return Err(error::cluster(text));
    }
    Ok(())
}

fn variable(name: &str) -> Result<Option<String>, Error> {
    match std::env::var(name) {
        Ok(value) if !value.is_empty() => Ok(Some(value)),
        Ok(_) | Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(error::cluster(format!("{name} is not UTF-8")))
        }
    }
}

fn readable(path: &std::path::Path) -> Result<(), Error> {
    std::fs::File::open(path)
        .map(drop)
        .map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &std::path::Path, error: &std::io::Error) -> Error {
    error::cluster(format!("{} cannot be used: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_connection_to_another_machine_is_refused_unless_asked_for() {
        for (url, is_fine) in [
            ("nats://127.0.0.1:4222", true),
            ("127.0.0.1:4222", true),
            ("nats://localhost", true),
            ("nats://[::1]:4222", true),
            ("tls://nats.example.org", true),
            ("nats://nats.example.org", false),
            ("nats://127.0.0.1:4222,nats://10.0.0.7:4222", false),
            ("nats://localhost.example.org", false),
            ("http://127.0.0.1", false),
            ("nats://", false),
            ("nats://127.0.0.1,", false),
            ("nats://[::1]", true),
            ("localhost", true),
        ] {
            assert_eq!(Connection::new(url).check().is_ok(), is_fine, "{url}");
        }
        let mut asked = Connection::new("nats://nats.example.org");
        assert!(asked.plain().check().is_ok());
        let error = Connection::new("nats://nats.example.org")
            .check()
            .unwrap_err();
        assert!(error.to_string().contains("MP_CLUSTER_PLAIN"), "{error}");
    }

    #[test]
    fn password_in_an_address_is_used_and_not_shown() {
        let connection = Connection::new("nats://me:secret@127.0.0.1:4222");
        let user = connection.addresses().find_map(|address| address.user());
        assert_eq!(user, Some(("me".to_owned(), "secret".to_owned())));
        assert_eq!(connection.place(), "nats://127.0.0.1:4222");
        assert!(!format!("{connection:?}").contains("secret"));
        let connection = Connection::new("nats://secret@127.0.0.1");
        let token = connection.addresses().find_map(|address| address.token());
        assert_eq!(token.as_deref(), Some("secret"));
        assert_eq!(connection.place(), "nats://127.0.0.1");
    }

    #[test]
    fn namespace_is_a_name() {
        let long = "a".repeat(101);
        for (namespace, is_fine) in [
            ("a-1_B", true),
            (&long[1..], true),
            (&long, false),
            ("", false),
            ("a.b", false),
            ("*", false),
        ] {
            let mut connection = Connection::new("nats://localhost");
            let checked = connection.namespace(namespace).check();
            assert_eq!(checked.is_ok(), is_fine, "{namespace:?}");
        }
    }

    #[test]
    fn address_that_is_none_is_told_why() {
        for (url, why) in [
            ("4222", "as nats://127.0.0.1:4222 has"),
            ("nats://:4222", "it has no host"),
            ("nats://[]:4222", "it has no host"),
            ("nats:127.0.0.1:4222", "not with nats://"),
            ("tls:127.0.0.1:4222", "not with tls://"),
            ("nats://[::1", "no ] behind its ["),
            ("nats://[::1]4222", "behind its ]"),
            ("nats://::1:4222", "in brackets"),
            ("nats://127.0.0.1:4222/", "ends with the port"),
            ("nats://127.0.0.1:4222/app", "not with \"/app\""),
            ("nats://127.0.0.1:", "is no port"),
            ("nats://127.0.0.1:0", "is no port"),
            ("nats://127.0.0.1:65536", "is no port"),
            ("nats://127.0.0.1:nats", "is no port"),
            ("http://127.0.0.1", "begins with nats:// or tls://"),
        ] {
            let error = Connection::new(url).check().expect_err(url).to_string();
            assert!(error.contains(why), "{url}: {error}");
        }
    }

    #[test]
    fn what_has_a_meaning_in_an_address_is_decoded() {
        let user = |url| {
            let connection = Connection::new(url);
            connection.addresses().find_map(|address| address.user())
        };
        for (url, password) in [
            ("nats://me:p%40ss@127.0.0.1", "p@ss"),
            ("nats://me:%2F%c3%A4%2c@127.0.0.1", "/ä,"),
            ("nats://me:100%@127.0.0.1", "100%"),
            ("nats://me:%4@127.0.0.1", "%4"),
            ("nats://me:%+4@127.0.0.1", "%+4"),
            ("nats://me:%ff@127.0.0.1", "%ff"),
        ] {
            let expected = ("me".to_owned(), password.to_owned());
            assert_eq!(user(url), Some(expected), "{url}");
        }
        let connection = Connection::new("nats://to%3Aken@127.0.0.1");
        let token = connection.addresses().find_map(|address| address.token());
        assert_eq!(token.as_deref(), Some("to:ken"));
    }
}

//! Listening sockets: one for each worker where the kernel can share a port, else one that all workers accept from.
//!
//! Sockets are made on the main thread, all of them before the first worker starts, so that an address that cannot be had
//! leaves nothing half-started. A socket that comes from another process is the same `ListenSocket`: it is adopted.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use rustix::fs::Mode;
use socket2::{Domain, SockAddr, SockRef, Socket, TcpKeepalive, Type};

use super::socket_option::{SocketOption, SocketState};

/// One worker's socket of a listener: bound, listening, non-blocking.
#[derive(Debug)]
pub enum ListenSocket {
    /// A TCP socket.
    Tcp(TcpListener),
    /// A Unix stream socket.
    Unix(UnixListener),
}

impl ListenSocket {
    /// Takes over a socket that another process has made.
    ///
    /// # Errors
    /// It is not a TCP or Unix socket that listens.
    pub fn adopt(descriptor: OwnedFd) -> io::Result<ListenSocket> {
        let socket = Socket::from(descriptor);
        if !socket.is_listener()? || socket.r#type()? != Type::STREAM {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the descriptor is not a listening stream socket"));
        }
        socket.set_cloexec(true)?;
        socket.set_nonblocking(true)?;
        match socket.domain()? {
            Domain::UNIX => Ok(ListenSocket::Unix(socket.into())),
            _ => Ok(ListenSocket::Tcp(socket.into())),
        }
    }

    /// Another handle of the same socket, with the same queue.
    ///
    /// # Errors
    /// The system gives no more descriptors.
    pub fn try_clone(&self) -> io::Result<ListenSocket> {
        match self {
            ListenSocket::Tcp(listener) => Ok(ListenSocket::Tcp(listener.try_clone()?)),
            ListenSocket::Unix(listener) => Ok(ListenSocket::Unix(listener.try_clone()?)),
        }
    }
}

impl AsFd for ListenSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            ListenSocket::Tcp(listener) => listener.as_fd(),
            ListenSocket::Unix(listener) => listener.as_fd(),
        }
    }
}

/// How a TCP socket listens.
#[derive(Clone, Debug)]
pub struct TcpOptions {
    /// One socket a worker, among which the kernel spreads connections (`SO_REUSEPORT`); else all share one.
    pub reuse_port: bool,
    /// How many connections may wait to be accepted.
    pub backlog: u32,
    /// Bind although no interface has the address (`IP_FREEBIND`).
    pub freebind: bool,
    /// An IPv6 socket that takes IPv4 connections, too.
    pub ipv4_compat: bool,
    /// Probes of silent peers, inherited by accepted connections.
    pub keepalive: Option<Keepalive>,
    /// Whatever else is to be set.
    pub options: Vec<SocketOption>,
}

/// When a silent peer is probed, and given up; the kernel's defaults for what is not said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub time: Option<Duration>,
    /// Pause between probes.
    pub interval: Option<Duration>,
    /// Unanswered probes until the connection is dropped.
    pub probes: Option<u32>,
}

impl Keepalive {
    /// Has the kernel probe the peer of this socket.
    ///
    /// # Errors
    /// The kernel does not accept one of the values.
    pub fn set(&self, socket: &impl AsFd) -> io::Result<()> {
        let mut keepalive = TcpKeepalive::new();
        keepalive = self.time.map_or(keepalive.clone(), |time| keepalive.with_time(time));
        keepalive = self.interval.map_or(keepalive.clone(), |interval| keepalive.with_interval(interval));
        keepalive = self.probes.map_or(keepalive.clone(), |probes| keepalive.with_retries(probes));
        SockRef::from(socket).set_tcp_keepalive(&keepalive)
    }
}

/// Binds and listens on a TCP address, once for each worker. Port 0 gives all workers the same free port.
///
/// # Errors
/// As the kernel says; [`bind_failure`] puts it in an operator's words.
pub fn listen_tcp(address: SocketAddr, options: &TcpOptions, workers: NonZeroUsize) -> io::Result<Vec<ListenSocket>> {
    if options.reuse_port && address.port() != 0 {
        // With SO_REUSEPORT the kernel would let us join another process of the same user: find out without it first.
        tcp_socket(address, options, false)?.bind(&address.into())?;
    }
    let first = bound_tcp(address, options)?;
    let address = first.local_addr()?;
    let mut sockets = Vec::with_capacity(workers.get());
    for _ in 1..workers.get() {
        sockets.push(if options.reuse_port { bound_tcp(address, options)? } else { first.try_clone()? });
    }
    sockets.push(first);
    Ok(sockets.into_iter().map(ListenSocket::Tcp).collect())
}

/// Goes on with sockets of an earlier process on this address: what is set after binding is set anew, and workers for whom
/// there is none get one more. There may be more sockets than workers: each has a queue of its own, and must be accepted from.
///
/// # Errors
/// As those of [`listen_tcp`].
pub fn resume_tcp(
    mut sockets: Vec<ListenSocket>,
    options: &TcpOptions,
    workers: NonZeroUsize,
) -> io::Result<Vec<ListenSocket>> {
    let mut address = None;
    for socket in &sockets {
        let ListenSocket::Tcp(listener) = socket else { continue };
        SockRef::from(listener).listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
        address = Some(listener.local_addr()?);
    }
    let Some(address) = address else { return Ok(sockets) };
    let shared = sockets.len();
    for index in sockets.len()..workers.get() {
        let own = if options.reuse_port { bound_tcp(address, options).map(Some) } else { Ok(None) };
        sockets.push(match own {
            Ok(Some(socket)) => ListenSocket::Tcp(socket),
            Ok(None) => sockets[index % shared].try_clone()?,
            // The service manager's own socket (`portreeve.socket`): addresses are shared among sockets of one user only.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => sockets[index % shared].try_clone()?,
            Err(error) => return Err(error),
        });
    }
    Ok(sockets)
}

/// The same for a Unix socket, which all workers share.
///
/// # Errors
/// The system gives no more descriptors.
pub fn resume_unix(
    mut sockets: Vec<ListenSocket>,
    backlog: u32,
    workers: NonZeroUsize,
) -> io::Result<Vec<ListenSocket>> {
    // However many handles came, they are one queue.
    sockets.truncate(1);
    let Some(ListenSocket::Unix(first)) = sockets.first() else { return Ok(sockets) };
    SockRef::from(first).listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    for _ in 1..workers.get() {
        sockets.push(sockets[0].try_clone()?);
    }
    Ok(sockets)
}

fn bound_tcp(address: SocketAddr, options: &TcpOptions) -> io::Result<TcpListener> {
    let socket = tcp_socket(address, options, options.reuse_port)?;
    SocketOption::set_all(&options.options, SocketState::Prebind, &socket)?;
    socket.bind(&address.into())?;
    SocketOption::set_all(&options.options, SocketState::Bound, &socket)?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    SocketOption::set_all(&options.options, SocketState::Listening, &socket)?;
    Ok(socket.into())
}

fn tcp_socket(address: SocketAddr, options: &TcpOptions, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_tcp_nodelay(true)?;
    if options.freebind {
        match address {
            SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
            SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
        }
    }
    if address.is_ipv6() {
        socket.set_only_v6(!options.ipv4_compat)?;
    }
    if let Some(keepalive) = &options.keepalive {
        keepalive.set(&socket)?;
    }
    Ok(socket)
}

/// Binds and listens on a Unix socket; `@name` is in the abstract namespace. All workers share the one socket, for Unix sockets
/// know no `SO_REUSEPORT`. A socket file that nobody listens on any more is replaced.
///
/// # Errors
/// As the kernel says; `AddrInUse` also if the path is a file of another kind.
pub fn listen_unix(
    path: &Path,
    mode: Option<u32>,
    backlog: u32,
    workers: NonZeroUsize,
) -> io::Result<Vec<ListenSocket>> {
    let name = path.as_os_str().as_encoded_bytes();
    let address = if let Some(name) = name.strip_prefix(b"@") {
        abstract_address(name)?
    } else {
        remove_stale(path)?;
        SockAddr::unix(path)?
    };
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    if let Some(mode) = mode {
        // The file is made with the mode of the socket: at no time can more users connect than may.
        rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode))?;
    }
    socket.bind(&address)?;
    if let (Some(mode), false) = (mode, name.starts_with(b"@")) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?; // what the umask took away
    }
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    let first = UnixListener::from(OwnedFd::from(socket));
    let mut sockets = Vec::with_capacity(workers.get());
    for _ in 1..workers.get() {
        sockets.push(ListenSocket::Unix(first.try_clone()?));
    }
    sockets.push(ListenSocket::Unix(first));
    Ok(sockets)
}

fn abstract_address(name: &[u8]) -> io::Result<SockAddr> {
    // socket2 takes the abstract namespace as a path with a leading NUL.
    std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    let path = [b"\0", name].concat();
    SockAddr::unix(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&path))
}

fn remove_stale(path: &Path) -> io::Result<()> {
    let Ok(metadata) = path.symlink_metadata() else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "the path exists and is not a socket"));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Ok(_) => Err(io::Error::from(io::ErrorKind::AddrInUse)),
        Err(error) => Err(error),
    }
}

/// Why an address cannot be listened on, in words that name what to do.
#[must_use]
pub fn bind_failure(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse if error.raw_os_error().is_none() && error.get_ref().is_some() => error.to_string(),
        io::ErrorKind::AddrInUse => "the address is in use by another process".to_owned(),
        io::ErrorKind::AddrNotAvailable => {
            "no interface of this host has the address (freebind: true binds nevertheless)".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "permission denied: ports below 1024 need CAP_NET_BIND_SERVICE, socket files a writable directory"
                .to_owned()
        }
        io::ErrorKind::NotFound => "the directory of the socket file does not exist".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: NonZeroUsize = NonZeroUsize::new(2).unwrap();

    fn options(reuse_port: bool) -> TcpOptions {
        TcpOptions {
            reuse_port,
            backlog: 128,
            freebind: false,
            ipv4_compat: false,
            keepalive: None,
            options: Vec::new(),
        }
    }

    fn port_of(socket: &ListenSocket) -> u16 {
        match socket {
            ListenSocket::Tcp(listener) => listener.local_addr().unwrap().port(),
            ListenSocket::Unix(_) => unreachable!("a TCP socket was asked for"),
        }
    }

    #[test]
    fn every_worker_has_a_socket_on_the_same_port() {
        for reuse_port in [true, false] {
            let sockets = listen_tcp("127.0.0.1:0".parse().unwrap(), &options(reuse_port), TWO).unwrap();
            assert_eq!(sockets.len(), 2);
            assert_eq!(port_of(&sockets[0]), port_of(&sockets[1]));
        }
    }

    #[test]
    fn a_port_in_use_is_refused_even_if_it_could_be_shared() {
        let sockets = listen_tcp("127.0.0.1:0".parse().unwrap(), &options(true), TWO).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port_of(&sockets[0])));
        let error = listen_tcp(address, &options(true), TWO).unwrap_err();
        assert_eq!(bind_failure(&error), "the address is in use by another process");
        drop(sockets);
        listen_tcp(address, &options(true), TWO).unwrap();
    }

    #[test]
    fn a_socket_that_another_user_made_is_shared_as_it_is() {
        let alone = ListenSocket::Tcp(TcpListener::bind("127.0.0.1:0").unwrap());
        let port = port_of(&alone);
        let sockets = resume_tcp(vec![alone], &options(true), TWO).unwrap();
        assert_eq!(sockets.iter().map(port_of).collect::<Vec<_>>(), [port, port]);
    }

    #[test]
    fn sockets_of_another_process_are_gone_on_with_whatever_the_number_of_workers() {
        for reuse_port in [true, false] {
            let options = options(reuse_port);
            let sockets = listen_tcp("127.0.0.1:0".parse().unwrap(), &options, TWO).unwrap();
            let port = port_of(&sockets[0]);
            let adopt =
                |socket: &ListenSocket| ListenSocket::adopt(socket.as_fd().try_clone_to_owned().unwrap()).unwrap();
            for (workers, expected) in [(1, 2), (2, 2), (5, 5)] {
                let inherited = sockets.iter().map(adopt).collect();
                let resumed = resume_tcp(inherited, &options, NonZeroUsize::new(workers).unwrap()).unwrap();
                assert_eq!(resumed.len(), expected, "no queue is lost, and no worker is without");
                assert!(resumed.iter().all(|socket| port_of(socket) == port));
            }
        }
        let not_listening = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        assert_eq!(ListenSocket::adopt(not_listening.into()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_foreign_address_is_named_as_such() {
        let error = listen_tcp("192.0.2.1:0".parse().unwrap(), &options(true), TWO).unwrap_err();
        assert!(bind_failure(&error).starts_with("no interface of this host"), "{error}");
    }

    #[test]
    fn unix_sockets_have_their_mode_and_replace_stale_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        let sockets = listen_unix(&path, Some(0o622), 128, TWO).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o622);
        let error = listen_unix(&path, None, 128, TWO).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "somebody listens");
        drop(sockets);
        listen_unix(&path, None, 128, TWO).expect("the file of a closed socket is replaced");
    }

    #[test]
    fn other_files_are_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.conf");
        std::fs::write(&path, "precious").unwrap();
        let error = listen_unix(&path, None, 128, TWO).unwrap_err();
        assert_eq!(bind_failure(&error), "the path exists and is not a socket");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn abstract_sockets_leave_no_file() {
        let name = format!("@portreeve-test-{}", std::process::id());
        let sockets = listen_unix(Path::new(&name), None, 128, TWO).unwrap();
        assert!(!Path::new(&name).exists());
        let error = listen_unix(Path::new(&name), None, 128, TWO).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(sockets);
    }
}

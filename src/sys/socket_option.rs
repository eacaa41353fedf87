//! Socket options by number, for those that configurations name and no crate does.

#![allow(unsafe_code, reason = "an option of any kind has no safe interface")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

/// A socket option and when it is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOption {
    /// The protocol that knows it, such as `SOL_SOCKET`.
    pub level: i32,
    /// Its number there.
    pub name: i32,
    /// Its value, an integer in the machine's byte order for the most.
    pub value: Vec<u8>,
    /// When it is set.
    pub state: SocketState,
}

/// A moment in the life of a listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketState {
    /// Before it is bound.
    Prebind,
    /// When it is bound.
    Bound,
    /// When it listens.
    Listening,
}

impl SocketOption {
    /// An option that is an integer.
    #[must_use]
    pub fn integer(level: i32, name: i32, value: i32, state: SocketState) -> SocketOption {
        SocketOption { level, name, value: value.to_ne_bytes().to_vec(), state }
    }

    /// `IP_TRANSPARENT`: connections to addresses that are not ours.
    #[must_use]
    pub fn transparent(ipv6: bool) -> SocketOption {
        let (level, name) =
            if ipv6 { (libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT) } else { (libc::IPPROTO_IP, libc::IP_TRANSPARENT) };
        SocketOption::integer(level, name, 1, SocketState::Prebind)
    }

    /// `IP_FREEBIND`: whether the address that is bound may be one that no interface has.
    #[must_use]
    pub fn freebind(ipv6: bool, allowed: bool) -> SocketOption {
        let (level, name) =
            if ipv6 { (libc::IPPROTO_IPV6, libc::IPV6_FREEBIND) } else { (libc::IPPROTO_IP, libc::IP_FREEBIND) };
        SocketOption::integer(level, name, i32::from(allowed), SocketState::Prebind)
    }

    /// `TCP_FASTOPEN`: so many connections may wait that have sent data with their first packet.
    #[must_use]
    pub fn fast_open(queue: i32) -> SocketOption {
        SocketOption::integer(libc::IPPROTO_TCP, libc::TCP_FASTOPEN, queue, SocketState::Listening)
    }

    /// Sets those of this state.
    ///
    /// # Errors
    /// The kernel does not know one, or its value, or does not allow it.
    pub fn set_all(options: &[SocketOption], state: SocketState, socket: impl AsFd) -> io::Result<()> {
        options.iter().filter(|option| option.state == state).try_for_each(|option| option.set(&socket))
    }

    fn set(&self, socket: &impl AsFd) -> io::Result<()> {
        let descriptor = socket.as_fd().as_raw_fd();
        let length = libc::socklen_t::try_from(self.value.len()).map_err(io::Error::other)?;
        // SAFETY: the kernel reads `length` bytes, which the vector has, and keeps none of them.
        let failed = unsafe { libc::setsockopt(descriptor, self.level, self.name, self.value.as_ptr().cast(), length) };
        if failed == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        Err(io::Error::new(error.kind(), format!("socket option {} of level {}: {error}", self.name, self.level)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_set_in_their_state() {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let keepalive = SocketOption::integer(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1, SocketState::Bound);
        let options = [keepalive, SocketOption::integer(libc::SOL_SOCKET, -1, 1, SocketState::Listening)];
        SocketOption::set_all(&options, SocketState::Prebind, &socket).unwrap();
        assert!(!socket.keepalive().unwrap());
        SocketOption::set_all(&options, SocketState::Bound, &socket).unwrap();
        assert!(socket.keepalive().unwrap());
        assert!(SocketOption::set_all(&options, SocketState::Listening, &socket).is_err());
    }
}

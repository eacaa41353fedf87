//! Connections that one worker makes to its own listeners, without a socket: to internal listeners, and to those that another
//! listener hands a connection over to because of its destination.

use std::cell::RefCell;
use std::io;

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::{Address, Io};

/// The listeners of one worker, by address.
#[derive(Debug, Default)]
pub struct Switchboard {
    lines: RefCell<Vec<Line>>,
}

#[derive(Debug)]
struct Line {
    addresses: Vec<Address>,
    listener: UnboundedSender<HandedOver>,
}

/// A connection for a listener.
#[derive(Debug)]
pub struct HandedOver {
    /// Its bytes.
    pub io: Io,
    /// Where it was going to and where it comes from, if another listener has found out that it is not what its socket says.
    pub addresses: Option<(Address, Address)>,
}

impl Switchboard {
    /// What arrives for a listener at these addresses.
    pub fn register(&self, addresses: Vec<Address>) -> UnboundedReceiver<HandedOver> {
        let (listener, connections) = mpsc::unbounded_channel();
        let mut lines = self.lines.borrow_mut();
        lines.retain(|line| !line.listener.is_closed());
        lines.push(Line { addresses, listener });
        connections
    }

    /// Connects to an internal listener.
    ///
    /// # Errors
    /// There is no such listener.
    pub fn connect(&self, to: &Address) -> io::Result<Io> {
        let Address::Internal { listener, .. } = to else { return Err(io::ErrorKind::AddrNotAvailable.into()) };
        let named = |address: &Address| matches!(address, Address::Internal { listener: name, .. } if name == listener);
        let (near, far) = Io::internal(to.clone());
        self.send(named, HandedOver { io: far, addresses: None }).map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(near)
    }

    /// Hands a connection over to the listener at its destination, or at the port of its destination; gives it back if there is
    /// none.
    ///
    /// # Errors
    /// There is no such listener.
    pub fn hand_over(&self, io: Io, destination: Address, source: Address) -> Result<(), Io> {
        let same = |address: &Address| *address == destination;
        let any = |address: &Address| match (address.socket_addr(), destination.socket_addr()) {
            (Some(any), Some(wanted)) => {
                any.ip().is_unspecified() && any.port() == wanted.port() && any.is_ipv4() == wanted.is_ipv4()
            }
            _ => false,
        };
        let addresses = Some((destination.clone(), source));
        let handed = self.send(same, HandedOver { io, addresses });
        handed.or_else(|handed| self.send(any, handed)).map_err(|handed| handed.io)
    }

    fn send(&self, wanted: impl Fn(&Address) -> bool, handed: HandedOver) -> Result<(), HandedOver> {
        let lines = self.lines.borrow();
        match lines.iter().find(|line| line.addresses.iter().any(&wanted) && !line.listener.is_closed()) {
            Some(line) => line.listener.send(handed).map_err(|failed| failed.0),
            None => Err(handed),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn address(text: &str) -> Address {
        Address::Ip(text.parse().unwrap())
    }

    fn internal(listener: &str, endpoint_id: &str) -> Address {
        Address::Internal { listener: listener.into(), endpoint_id: endpoint_id.into() }
    }

    #[tokio::test]
    async fn internal_listeners_are_found_by_name() {
        let switchboard = Switchboard::default();
        let mut listener = switchboard.register(vec![internal("inner", "")]);
        let mut near = switchboard.connect(&internal("inner", "7")).unwrap();
        let HandedOver { io: mut far, addresses } = listener.recv().await.unwrap();
        assert_eq!((far.local_address().to_string().as_str(), addresses), ("envoy://inner/7", None));
        near.write_all(b"hello").await.unwrap();
        near.shutdown().await.unwrap();
        let mut text = String::new();
        far.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
        drop(listener);
        switchboard.connect(&internal("inner", "")).unwrap_err();
        switchboard.connect(&internal("other", "")).unwrap_err();
    }

    #[tokio::test]
    async fn a_reset_is_told_to_the_other_end() {
        let (mut near, mut far) = Io::internal(internal("inner", ""));
        far.write_all(b"last").await.unwrap();
        far.reset_on_close();
        drop(far);
        let mut text = Vec::new();
        assert_eq!(near.read_to_end(&mut text).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(text, b"last");
    }

    #[tokio::test]
    async fn a_destination_is_preferred_to_its_port() {
        let switchboard = Switchboard::default();
        let mut any = switchboard.register(vec![address("0.0.0.0:80")]);
        let mut own = switchboard.register(vec![address("192.0.2.1:80"), address("192.0.2.1:81")]);
        let hand =
            |to: &str| switchboard.hand_over(Io::internal(internal("a", "")).0, address(to), address("192.0.2.9:1"));
        hand("192.0.2.1:80").unwrap();
        assert_eq!(own.recv().await.unwrap().addresses.unwrap().0, address("192.0.2.1:80"));
        hand("192.0.2.2:80").unwrap();
        any.recv().await.unwrap();
        hand("[2001:db8::1]:80").unwrap_err();
        hand("192.0.2.1:82").unwrap_err();
    }
}

//! Session tickets: sessions that clients keep for us, sealed.
//!
//! A ticket is a key's name, a nonce, and the session with its time of issue under AES-256-GCM. The context's fingerprint is
//! authenticated with it, so that a session of one context is not resumed in another that shares the keys but asks for other
//! client certificates.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    rand::fill,
};
use rustls::{crypto::GetRandomFailed, server::ProducesTickets, ticketer::TicketRotator};

use super::x509::sha256;

const NAME_LENGTH: usize = 16;
const TIME_LENGTH: usize = 8;

/// Makes and renews its keys itself: a ticket is good for `lifetime` at least, and for twice as long at most.
pub(super) fn rotating(lifetime: Duration) -> Option<Arc<dyn ProducesTickets>> {
    let generate = || -> Result<Box<dyn ProducesTickets>, GetRandomFailed> {
        let mut bytes = [0; TicketKey::LENGTH];
        fill(&mut bytes).map_err(|_| GetRandomFailed)?;
        let key = TicketKey::from_bytes(&bytes).ok_or(GetRandomFailed)?;
        Ok(Box::new(Ticketer { keys: vec![key], context: [0; 32], lifetime: Duration::MAX }))
    };
    Some(Arc::new(TicketRotator::new(seconds(lifetime), generate).ok()?))
}

/// Uses the given keys, the first to seal and all to open, so that several processes can resume each other's sessions.
pub(super) fn with_keys(keys: Vec<Arc<TicketKey>>, context: [u8; 32], lifetime: Duration) -> Arc<dyn ProducesTickets> {
    Arc::new(Ticketer { keys, context, lifetime })
}

/// One key: its name travels with every ticket that it seals.
pub(super) struct TicketKey {
    name: [u8; NAME_LENGTH],
    key: RandomizedNonceKey,
}

impl TicketKey {
    /// Size of a key in Envoy's files: a name of 16 bytes and two keys of 32.
    pub(super) const LENGTH: usize = 80;

    /// A key from a file; `None` if it has not the right size.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Arc<TicketKey>> {
        let bytes: &[u8; TicketKey::LENGTH] = bytes.try_into().ok()?;
        let (name, secret) = bytes.split_first_chunk::<NAME_LENGTH>()?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, &sha256(secret)).ok()?;
        Some(Arc::new(TicketKey { name: *name, key }))
    }
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKey")
    }
}

/// Seals and opens the session tickets of one TLS context.
#[derive(Debug)]
struct Ticketer {
    keys: Vec<Arc<TicketKey>>,
    context: [u8; 32],
    lifetime: Duration,
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        seconds(self.lifetime)
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        let key = self.keys.first()?;
        let mut sealed = [&now().to_be_bytes(), session].concat();
        let nonce = key.key.seal_in_place_append_tag(Aad::from(self.context), &mut sealed).ok()?;
        Some([key.name.as_slice(), nonce.as_ref(), sealed.as_slice()].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME_LENGTH>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let key = self.keys.iter().find(|key| key.name == *name)?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let mut opened = sealed.to_vec();
        let opened = key.key.open_in_place(nonce, Aad::from(self.context), &mut opened).ok()?;
        let (issued, session) = opened.split_first_chunk::<TIME_LENGTH>()?;
        let age = now().saturating_sub(u64::from_be_bytes(*issued));
        (age <= self.lifetime.as_secs()).then(|| session.to_vec())
    }
}

fn seconds(lifetime: Duration) -> u32 {
    u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn key(fill: u8) -> Arc<TicketKey> {
        TicketKey::from_bytes(&[fill; TicketKey::LENGTH]).unwrap()
    }

    #[test]
    fn all_keys_open_and_the_first_seals() {
        let old = with_keys(vec![key(1)], [0; 32], HOUR);
        let new = with_keys(vec![key(2), key(1)], [0; 32], HOUR);
        let ticket = old.encrypt(b"session").unwrap();
        assert_eq!(new.decrypt(&ticket).as_deref(), Some(b"session".as_slice()));
        assert_eq!(old.decrypt(&new.encrypt(b"session").unwrap()), None);
    }

    #[test]
    fn tickets_are_bound_to_their_context_and_their_time() {
        let ticket = with_keys(vec![key(1)], [0; 32], HOUR).encrypt(b"session").unwrap();
        assert_eq!(with_keys(vec![key(1)], [1; 32], HOUR).decrypt(&ticket), None);
        let ancient = [&0_u64.to_be_bytes(), b"session".as_slice()].concat();
        let mut sealed = ancient;
        let nonce = key(1).key.seal_in_place_append_tag(Aad::from([0; 32]), &mut sealed).unwrap();
        let ticket = [[1; NAME_LENGTH].as_slice(), nonce.as_ref(), &sealed].concat();
        assert_eq!(with_keys(vec![key(1)], [0; 32], HOUR).decrypt(&ticket), None);
    }

    #[test]
    fn damaged_tickets_are_refused() {
        let ticketer = rotating(HOUR).unwrap();
        let ticket = ticketer.encrypt(b"session").unwrap();
        assert_eq!(ticketer.decrypt(&ticket).as_deref(), Some(b"session".as_slice()));
        for position in 0..ticket.len() {
            let mut damaged = ticket.clone();
            damaged[position] ^= 1;
            assert_eq!(ticketer.decrypt(&damaged), None, "byte {position}");
            assert_eq!(ticketer.decrypt(&ticket[..position]), None, "cut at {position}");
        }
    }
}

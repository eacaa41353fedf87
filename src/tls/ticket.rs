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

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use rustls::server::ProducesTickets;

use super::{ticket_keys::TicketKeys, x509::sha256};

pub(super) const NAME_LENGTH: usize = 16;
const TIME_LENGTH: usize = 8;

/// Uses the keys of the process, which renew themselves.
pub(super) fn rotating(keys: Arc<TicketKeys>, context: [u8; 32], lifetime: Duration) -> Arc<dyn ProducesTickets> {
    keys.serve(lifetime);
    Arc::new(Ticketer { keys: Keys::OfProcess(keys), context, lifetime })
}

/// Uses the given keys, the first to seal and all to open, so that several processes can resume each other's sessions.
pub(super) fn with_keys(keys: Vec<Arc<TicketKey>>, context: [u8; 32], lifetime: Duration) -> Arc<dyn ProducesTickets> {
    Arc::new(Ticketer { keys: Keys::Configured(keys), context, lifetime })
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

    /// What tickets call it.
    pub(super) fn name(&self) -> &[u8; NAME_LENGTH] {
        &self.name
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
    keys: Keys,
    context: [u8; 32],
    lifetime: Duration,
}

#[derive(Debug)]
enum Keys {
    Configured(Vec<Arc<TicketKey>>),
    OfProcess(Arc<TicketKeys>),
}

impl Keys {
    fn sealing(&self) -> Option<Arc<TicketKey>> {
        match self {
            Keys::Configured(keys) => keys.first().cloned(),
            Keys::OfProcess(keys) => keys.sealing(now()),
        }
    }

    fn named(&self, name: &[u8; NAME_LENGTH]) -> Option<Arc<TicketKey>> {
        match self {
            Keys::Configured(keys) => keys.iter().find(|key| key.name() == name).cloned(),
            Keys::OfProcess(keys) => keys.named(name),
        }
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        seconds(self.lifetime)
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        let key = self.keys.sealing()?;
        let mut sealed = [&now().to_be_bytes(), session].concat();
        let nonce = key.key.seal_in_place_append_tag(Aad::from(self.context), &mut sealed).ok()?;
        Some([key.name.as_slice(), nonce.as_ref(), sealed.as_slice()].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME_LENGTH>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let key = self.keys.named(name)?;
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

/// Seconds since the epoch: tickets and keys go from process to process, and so does their time.
pub(super) fn now() -> u64 {
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
        let ticketer = rotating(Arc::default(), [0; 32], HOUR);
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

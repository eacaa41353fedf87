//! TLS contexts: certificates, verification, resumption.

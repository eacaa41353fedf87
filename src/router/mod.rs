//! The router filter: the last of every chain, the one that answers.

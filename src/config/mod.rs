//! How documents become messages: positions, paths and errors. No domain knowledge.

//! Drain: stop accepting, finish, deadline.

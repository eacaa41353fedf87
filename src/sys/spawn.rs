//! Processes that are nobody's children.

#![allow(unsafe_code, reason = "what happens between fork and exec has no safe interface")]

use std::{io, os::unix::process::CommandExt, process::Command};

/// Starts a program whose parent is the init process, or the nearest subreaper: who starts it may end before it, and is not
/// told of its end.
///
/// # Errors
/// The program cannot be started.
pub fn spawn_detached(command: &mut Command) -> io::Result<()> {
    // SAFETY: the closure runs in the child of a fork of a process with several threads, where only async-signal-safe calls
    // are allowed; fork and _exit are, and nothing is allocated.
    unsafe {
        command.pre_exec(|| match libc::fork() {
            -1 => Err(io::Error::last_os_error()),
            0 => Ok(()),
            _ => libc::_exit(0),
        });
    }
    command.spawn()?.wait()?;
    Ok(())
}

//! How much memory the process has, as the kernel counts.

use std::fs;

/// Memory of this process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// What belongs to no file: heap and stacks.
    pub anonymous: u64,
    /// All that is in physical memory.
    pub resident: u64,
}

impl Memory {
    /// What it is now; zero where `/proc` is not mounted.
    #[must_use]
    pub fn now() -> Self {
        Self::parse(&fs::read_to_string("/proc/self/status").unwrap_or_default())
    }

    fn parse(status: &str) -> Self {
        let bytes = |key: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(key))?;
            Some(value.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
        };
        Self { anonymous: bytes("RssAnon:").unwrap_or_default(), resident: bytes("VmRSS:").unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_are_read() {
        let status = "Name:\tportreeve\nVmRSS:\t    9120 kB\nRssAnon:\t    2048 kB\nRssFile:\t 7072 kB\n";
        assert_eq!(Memory::parse(status), Memory { anonymous: 2048 * 1024, resident: 9120 * 1024 });
        assert_eq!(Memory::parse("VmRSS: many"), Memory::default());
        assert!(Memory::now().resident > 0);
    }
}

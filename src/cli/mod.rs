//! The command line: run, check, demo, workers, version.

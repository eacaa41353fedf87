# What people and CI run. Every target sets up what it needs; the second time it starts at once.
#
#   make run      build, then start `portreeve demo` (options: make run ARGS="--help")
#   make test     unit tests, the architecture rules, the real server over sockets
#   make interop  real peers: curl, grpcurl, h2spec, a browser, a Deephaven server; the same traffic through Envoy (tests/parity)
#   make system   the packages on booted Debian machines: reloads, upgrades and crashes under load (as root)
#   make bench    CPU per request beside nginx, HAProxy and Envoy
#   make lint     formatting, clippy, dependencies
#   make deb      a package for Debian and Ubuntu in target/packages (quicker, for tries: make deb PROFILE=release)
#   make rpm      one for Fedora and its relatives

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.PHONY: help run test interop system bench lint deb rpm toolchain

export PATH := $(HOME)/.cargo/bin:$(PATH)
TARGET := $(or $(CARGO_TARGET_DIR),target)
PROFILE ?= dist

help:
	@sed -n 's/^#   //p' Makefile

run: toolchain
	@[ -x $(TARGET)/release/portreeve ] || echo 'Building Portreeve; the first time takes some minutes.'
	cargo build --release --locked --bin portreeve
	exec $(TARGET)/release/portreeve demo $(ARGS)

test: toolchain
	@cargo test --locked --no-fail-fast

interop: toolchain
	@cargo build --release --locked --bin portreeve
	interop/run $(TARGET)/release/portreeve

system: toolchain
	@packaging/test/run

bench: toolchain
	@cargo build --profile dist --locked --bin portreeve
	benches/peers/run $(TARGET)/dist/portreeve $(ARGS)

lint: toolchain
	@cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	.ci/deny

deb rpm: toolchain
	@packaging/build $@ $(PROFILE)

toolchain:
	@.ci/toolchain

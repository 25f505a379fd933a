# Each target installs what it needs; nothing here expects more than Rust, Node.js, a C compiler and apt.

SUITE ?= http
TARGET := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: test lint bench fuzz packages

## every test: units, worlds, and the binary as a user starts it
test: packages
	cargo build --locked -p postern-cli
	POSTERN_BIN=$(TARGET)/debug/postern cargo test --locked --workspace --no-fail-fast

## formatting and clippy, both without a finding
lint:
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

## side by side with peers in the same run; prints ratios and writes bench/results.json
bench:
	bench/install
	cargo build --release --locked -p postern-cli -p postern-bench
	$(TARGET)/release/postern-bench $(SUITE)

packages:
	@command -v curl >/dev/null || ($(SUDO) apt-get update && $(SUDO) apt-get install -y --no-install-recommends curl)

# Each target installs what it needs; nothing here expects more than Rust, Node.js, a C compiler and apt.

SUITE ?= http
TARGET_NAME ?= canonical_request
SECONDS ?= 60
WORLDS ?= 1000000
FIRST ?= 0
TARGET := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: test lint bench fuzz worlds packages

## every test: units, worlds, and the binary as a user starts it
test: packages
	# One build for all: another choice of packages would compile the dependencies a second time, with other features.
	cargo build --locked --workspace --all-targets
	POSTERN_BIN=$(TARGET)/debug/postern cargo test --locked --workspace --no-fail-fast
	# In virtual time, which replaces WireGuard's clock in the whole build.
	cargo test --locked -p postern-netstack --features sim

## formatting and clippy, both without a finding
lint:
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

## side by side with peers in the same run; prints ratios and writes bench/results.json
bench:
	bench/install
	cargo build --release --locked -p postern-cli -p postern-bench
	$(TARGET)/release/postern-bench $(SUITE)

## one fuzz target for a while: make fuzz TARGET_NAME=client_hello SECONDS=600 (fuzz/README.md)
fuzz:
	@command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked
	cp Cargo.lock fuzz/Cargo.lock
	mkdir -p fuzz/found/$(TARGET_NAME)
	cargo fuzz run --sanitizer none $(TARGET_NAME) fuzz/found/$(TARGET_NAME) fuzz/corpus/$(TARGET_NAME) \
		-- -max_total_time=$(SECONDS) -max_len=16384 -timeout=10

## simulated networks around the tunnel's TCP, on every core; a failure names its seed: make worlds WORLDS=20000 FIRST=0
worlds:
	cargo test --release --locked -p postern-tcp --test worlds --no-run
	@end=$$(($(FIRST) + $(WORLDS))); seq $(FIRST) 10000 $$((end - 1)) | nice -n 19 xargs -P "$$(nproc)" -I '{}' sh -c ' \
		next=$$(({} + 10000)); [ $$next -le '$$end' ] || next='$$end'; \
		if run=$$(FIRST={} WORLDS=$$((next - {})) cargo test --release --locked --quiet -p postern-tcp --test worlds 2>&1); \
		then echo "{} to $$((next - 1)): every byte arrived"; else echo "$$run"; exit 1; fi'

# What the tests start beside Postern: real WireGuard peers, their network, and an upstream.
PACKAGES := curl iproute2 util-linux wireguard-go wireguard-tools nftables ethtool python3-minimal

packages:
	@for program in curl ip unshare setpriv nsenter wireguard-go wg wg-quick nft ethtool python3; do \
		PATH="$$PATH:/usr/sbin:/sbin" command -v $$program >/dev/null || missing=1; \
	done; \
	[ -z "$$missing" ] || { $(SUDO) apt-get update && $(SUDO) apt-get install -y --no-install-recommends $(PACKAGES); }

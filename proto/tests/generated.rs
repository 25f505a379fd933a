//! The committed code in `src/gen` is what the `.proto` files in `proto` make.

use std::fs;
use std::path::Path;

/// Messages that carry a secret; `src/masked.rs` prints them.
const MASKED: [&str; 12] = [
    "management.AuthenticateResponse",
    "management.CreateProxyPeerRequest",
    "management.HeaderAuth",
    "management.HeaderAuthRequest",
    "management.MiddlewareConfig",
    "management.PasswordRequest",
    "management.PathMapping",
    "management.PathTargetOptions",
    "management.PinRequest",
    "management.ProxyMapping",
    "management.ValidateSessionRequest",
    "management.ValidateTunnelPeerResponse",
];

const FILES: [&str; 2] = ["management.rs", "postern.v1.rs"];

fn generate(into: &Path) {
    let protos = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let files = protox::compile([protos.join("management.proto"), protos.join("postern.proto")], [&protos])
        .expect("the .proto files compile");
    tonic_prost_build::configure()
        .out_dir(into)
        .btree_map(".")
        .bytes(".postern.v1.AccessLogBatch")
        .skip_debug(MASKED)
        .compile_fds(files)
        .expect("code is generated");
}

#[test]
fn generated_code_is_fresh() {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gen");
    if std::env::var_os("POSTERN_REGENERATE").is_some() {
        generate(&committed);
    }
    let fresh = tempfile::tempdir().expect("a folder for the fresh code");
    generate(fresh.path());
    for file in FILES {
        let committed = fs::read_to_string(committed.join(file)).unwrap_or_default();
        let fresh = fs::read_to_string(fresh.path().join(file)).expect("generated");
        assert!(
            committed == fresh,
            "proto/src/gen/{file} is not what proto/proto makes; run `POSTERN_REGENERATE=1 cargo test -p postern-proto --test generated` and commit it"
        );
    }
}

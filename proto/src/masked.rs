//! Debug output without secrets, for the messages whose generated one would show them.

use std::fmt;

use crate::management::{
    AuthenticateResponse, CreateProxyPeerRequest, HeaderAuth, HeaderAuthRequest, MiddlewareConfig, PasswordRequest,
    PathMapping, PathTargetOptions, PinRequest, ProxyMapping, ValidateSessionRequest, ValidateTunnelPeerResponse,
};

/// Shows the named fields and, by two dots, that there are others.
macro_rules! show {
    ($($message:ident { $($field:ident),* })*) => {$(
        impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($message))$(.field(stringify!($field), &self.$field))*.finish_non_exhaustive()
            }
        }
    )*};
}

show! {
    AuthenticateResponse { success }
    CreateProxyPeerRequest { service_id, account_id, wireguard_public_key, cluster, listen_port }
    HeaderAuth { header, basic_realm }
    HeaderAuthRequest { header_name }
    MiddlewareConfig { id, enabled, slot, fail_mode, timeout, can_mutate }
    PasswordRequest {}
    PathMapping { path, options }
    PathTargetOptions { skip_tls_verify, request_timeout, path_rewrite, direct_upstream, disable_access_log }
    PinRequest {}
    ProxyMapping {
        r#type, id, account_id, domain, path, auth, pass_host_header, rewrite_redirects, mode, listen_port,
        access_restrictions, private
    }
    ValidateSessionRequest { domain }
    ValidateTunnelPeerResponse { valid, user_id, user_email, denied_reason, peer_group_ids, peer_group_names }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::management::{AuthenticateRequest, Authentication, authenticate_request::Request};

    #[test]
    fn debug_output_names_the_service_and_no_secret() {
        let secret = || "hush-hush".to_owned();
        let mapping = ProxyMapping {
            id: "svc".into(),
            auth_token: secret(),
            auth: Some(Authentication {
                header_auths: vec![HeaderAuth { hashed_value: secret(), ..HeaderAuth::default() }],
                ..Authentication::default()
            }),
            path: vec![PathMapping {
                options: Some(PathTargetOptions {
                    custom_headers: [("x-key".to_owned(), secret())].into(),
                    middlewares: vec![MiddlewareConfig {
                        config_json: secret().into_bytes(),
                        ..MiddlewareConfig::default()
                    }],
                    ..PathTargetOptions::default()
                }),
                target: "http://x/?key=hush".to_owned(),
                ..PathMapping::default()
            }],
            ..ProxyMapping::default()
        };
        let ask = AuthenticateRequest {
            id: "svc".into(),
            request: Some(Request::HeaderAuth(HeaderAuthRequest { header_value: secret(), header_name: "x".into() })),
            ..AuthenticateRequest::default()
        };
        for shown in [format!("{mapping:?}"), format!("{ask:?}")] {
            assert!(shown.contains("svc"), "{shown}");
            assert!(!shown.contains("hush"), "{shown}");
        }
    }
}

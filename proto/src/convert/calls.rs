use std::net::IpAddr;
use std::time::SystemTime;

use http::HeaderName;
use postern_model::{
    AccountId, Authenticate, Authenticated, Capabilities, Credential, InboundListener, ProxyId, Secret, ServiceId,
    ServiceState, StatusUpdate,
};
use tonic::Status;

use super::invalid::{Invalid, quote};
use super::network::{address, port};
use crate::management::authenticate_request::Request;
use crate::management::{
    AuthenticateRequest, AuthenticateResponse, GetMappingUpdateRequest, HeaderAuthRequest, ProxyCapabilities,
    ProxyInboundListener, ProxyStatus, SendStatusUpdateRequest, SyncMappingsInit,
};

/// How a proxy introduces itself when it opens a mapping stream (NetBird: `SyncMappingsInit`, `GetMappingUpdateRequest`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// This process.
    pub proxy_id: ProxyId,
    /// Its version, for people.
    pub version: String,
    /// When it started.
    pub started_at: SystemTime,
    /// The domain of its cluster, as it was given.
    pub address: String,
    /// What it can do.
    pub capabilities: Capabilities,
}

impl Hello {
    /// As the first message of `SyncMappings`.
    #[must_use]
    pub fn to_init(&self) -> SyncMappingsInit {
        SyncMappingsInit {
            proxy_id: self.proxy_id.to_string(),
            version: self.version.clone(),
            started_at: Some(self.started_at.into()),
            address: self.address.clone(),
            capabilities: Some(capabilities_to_wire(self.capabilities)),
        }
    }

    /// As the request of `GetMappingUpdate`.
    #[must_use]
    pub fn to_legacy(&self) -> GetMappingUpdateRequest {
        let SyncMappingsInit { proxy_id, version, started_at, address, capabilities } = self.to_init();
        GetMappingUpdateRequest { proxy_id, version, started_at, address, capabilities }
    }

    /// From the first message of `SyncMappings`. A start time that is missing or absurd becomes the epoch.
    ///
    /// # Errors
    /// [`Invalid`] if the proxy id is unusable or the address empty.
    pub fn from_init(wire: SyncMappingsInit) -> Result<Self, Invalid> {
        if wire.address.is_empty() {
            return Err(Invalid::new("address", "it is missing"));
        }
        let started_at = wire.started_at.and_then(|at| at.try_into().ok());
        Ok(Self {
            proxy_id: ProxyId::parse(&wire.proxy_id).map_err(|e| Invalid::new("proxy_id", e))?,
            version: wire.version,
            started_at: started_at.unwrap_or(SystemTime::UNIX_EPOCH),
            address: wire.address,
            capabilities: capabilities_from_wire(wire.capabilities.unwrap_or_default()),
        })
    }

    /// From the request of `GetMappingUpdate`.
    ///
    /// # Errors
    /// As [`Hello::from_init`].
    pub fn from_legacy(wire: GetMappingUpdateRequest) -> Result<Self, Invalid> {
        let GetMappingUpdateRequest { proxy_id, version, started_at, address, capabilities } = wire;
        Self::from_init(SyncMappingsInit { proxy_id, version, started_at, address, capabilities })
    }
}

fn capabilities_to_wire(capabilities: Capabilities) -> ProxyCapabilities {
    ProxyCapabilities {
        // Servers look at the presence of this one, so a proxy that cannot must not send it at all.
        supports_custom_ports: capabilities.custom_ports.then_some(true),
        require_subdomain: Some(capabilities.require_subdomain),
        supports_crowdsec: Some(capabilities.crowdsec),
        private: Some(capabilities.private),
        supports_private_service: Some(capabilities.private_service),
    }
}

fn capabilities_from_wire(wire: ProxyCapabilities) -> Capabilities {
    Capabilities {
        custom_ports: wire.supports_custom_ports.is_some(),
        require_subdomain: wire.require_subdomain(),
        crowdsec: wire.supports_crowdsec(),
        private: wire.private(),
        private_service: wire.supports_private_service(),
    }
}

/// A status on its way to management.
#[must_use]
pub fn status_to_wire(status: &StatusUpdate) -> SendStatusUpdateRequest {
    let state = match status.state {
        ServiceState::Pending => ProxyStatus::Pending,
        ServiceState::Active => ProxyStatus::Active,
        ServiceState::TunnelNotCreated => ProxyStatus::TunnelNotCreated,
        ServiceState::CertificatePending => ProxyStatus::CertificatePending,
        ServiceState::CertificateFailed => ProxyStatus::CertificateFailed,
        ServiceState::Error => ProxyStatus::Error,
    };
    SendStatusUpdateRequest {
        service_id: status.service.to_string(),
        account_id: status.account.to_string(),
        status: state.into(),
        certificate_issued: status.certificate_issued,
        error_message: status.error.clone(),
        inbound_listener: status.inbound.map(|inbound| ProxyInboundListener {
            tunnel_ip: inbound.address.to_string(),
            https_port: inbound.https.into(),
            http_port: inbound.http.into(),
        }),
    }
}

/// A status as management receives it.
///
/// # Errors
/// [`Invalid`] for unusable ids, an unknown status, or an inbound listener without an address and ports.
pub fn status_from_wire(wire: SendStatusUpdateRequest) -> Result<StatusUpdate, Invalid> {
    let state = match ProxyStatus::try_from(wire.status) {
        Ok(ProxyStatus::Pending) => ServiceState::Pending,
        Ok(ProxyStatus::Active) => ServiceState::Active,
        Ok(ProxyStatus::TunnelNotCreated) => ServiceState::TunnelNotCreated,
        Ok(ProxyStatus::CertificatePending) => ServiceState::CertificatePending,
        Ok(ProxyStatus::CertificateFailed) => ServiceState::CertificateFailed,
        Ok(ProxyStatus::Error) => ServiceState::Error,
        Err(_) => return Err(Invalid::new("status", format!("{} is not known here", wire.status))),
    };
    Ok(StatusUpdate {
        service: ServiceId::parse(&wire.service_id).map_err(|e| Invalid::new("service_id", e))?,
        account: AccountId::parse(&wire.account_id).map_err(|e| Invalid::new("account_id", e))?,
        state,
        certificate_issued: wire.certificate_issued,
        error: wire.error_message,
        inbound: wire
            .inbound_listener
            .as_ref()
            .map(inbound_from_wire)
            .transpose()
            .map_err(|e| e.within("inbound_listener"))?,
    })
}

fn inbound_from_wire(wire: &ProxyInboundListener) -> Result<InboundListener, Invalid> {
    Ok(InboundListener {
        address: address("tunnel_ip", &wire.tunnel_ip)?,
        https: port("https_port", wire.https_port)?,
        http: port("http_port", wire.http_port)?,
    })
}

/// A credential on its way to management.
#[must_use]
pub fn authenticate_to_wire(request: &Authenticate) -> AuthenticateRequest {
    let credential = match &request.credential {
        Credential::Header { name, value } => Request::HeaderAuth(HeaderAuthRequest {
            header_value: value.expose().to_owned(),
            header_name: name.to_string(),
        }),
    };
    AuthenticateRequest {
        id: request.service.to_string(),
        account_id: request.account.to_string(),
        request: Some(credential),
        source_ip: request.source.to_string(),
    }
}

/// A credential as management receives it. Where the proxy does not tell who tries, as a stock one does not, all its tries
/// count as `proxy`'s.
///
/// # Errors
/// [`Invalid`] for unusable ids, a source that is no address, or a credential of a kind that is not known here.
pub fn authenticate_from_wire(wire: AuthenticateRequest, proxy: IpAddr) -> Result<Authenticate, Invalid> {
    let credential = match wire.request {
        Some(Request::HeaderAuth(HeaderAuthRequest { header_value, header_name })) => Credential::Header {
            name: HeaderName::try_from(&*header_name).map_err(|_| {
                Invalid::new("header_auth.header_name", format!("{} is no header name", quote(&header_name)))
            })?,
            value: Secret::new(header_value),
        },
        Some(Request::Password(_) | Request::Pin(_)) => {
            return Err(Invalid::new("request", "passwords and PINs are not known here"));
        }
        None => return Err(Invalid::new("request", "it is missing")),
    };
    let source = match &*wire.source_ip {
        "" => proxy,
        text => address("source_ip", text)?,
    };
    Ok(Authenticate {
        service: ServiceId::parse(&wire.id).map_err(|e| Invalid::new("id", e))?,
        account: AccountId::parse(&wire.account_id).map_err(|e| Invalid::new("account_id", e))?,
        credential,
        source,
    })
}

/// Management's verdict as it goes to a proxy.
///
/// # Errors
/// Too many tries are told by the code `RESOURCE_EXHAUSTED`, which no proxy takes for a yes.
pub fn authenticated_to_wire(verdict: &Authenticated) -> Result<AuthenticateResponse, Status> {
    match verdict {
        Authenticated::Yes { session_token } => {
            Ok(AuthenticateResponse { success: true, session_token: session_token.expose().to_owned() })
        }
        Authenticated::No => Ok(AuthenticateResponse { success: false, session_token: String::new() }),
        Authenticated::TooMany => Err(Status::resource_exhausted("too many wrong tries; wait a while")),
    }
}

/// Management's verdict as it reaches the proxy.
///
/// # Errors
/// [`Invalid`] for a yes without a session token, which says for nobody.
pub fn authenticated_from_wire(wire: AuthenticateResponse) -> Result<Authenticated, Invalid> {
    match (wire.success, wire.session_token.is_empty()) {
        (false, _) => Ok(Authenticated::No),
        (true, false) => Ok(Authenticated::Yes { session_token: Secret::new(wire.session_token) }),
        (true, true) => Err(Invalid::new("session_token", "it is missing; the service has no session key")),
    }
}

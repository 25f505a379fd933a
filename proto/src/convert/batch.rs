use postern_model::{AccountId, Batch, Change, OneTimeToken, Rejected, Secret, ServiceId};

use super::invalid::{Invalid, quote};
use super::mapping::mapping_from_wire;
use crate::management::{ProxyMapping, ProxyMappingUpdateType};

/// What a message of the mapping stream came to.
#[derive(Debug)]
pub struct Received {
    /// The changes, in order.
    pub batch: Batch,
    /// Mappings that do not say which service of which account they are about. Where the service is known it is removed,
    /// since what it was meant to become is not; there is nobody to report it to, so whoever receives this logs it.
    pub unidentified: Vec<Invalid>,
}

/// Converts a message of the mapping stream (NetBird: `SyncMappingsResponse`, `GetMappingUpdateResponse`).
#[must_use]
pub fn batch(mappings: Vec<ProxyMapping>, initial_sync_complete: bool) -> Received {
    let mut received = Received {
        batch: Batch { changes: Vec::with_capacity(mappings.len()), initial_sync_complete },
        unidentified: Vec::new(),
    };
    for mapping in mappings {
        match change(mapping) {
            Ok(change) => received.batch.changes.push(change),
            Err(Unidentified { service, invalid }) => {
                received.batch.changes.extend(service.map(Change::Remove));
                received.unidentified.push(invalid);
            }
        }
    }
    received
}

struct Unidentified {
    service: Option<ServiceId>,
    invalid: Invalid,
}

fn change(wire: ProxyMapping) -> Result<Change, Unidentified> {
    let service = ServiceId::parse(&wire.id).map_err(|e| Unidentified {
        service: None,
        invalid: Invalid::new("id", format!("{e}, not {}", quote(&wire.id))),
    })?;
    let kind = ProxyMappingUpdateType::try_from(wire.r#type);
    if kind == Ok(ProxyMappingUpdateType::UpdateTypeRemoved) {
        return Ok(Change::Remove(service));
    }
    let account = AccountId::parse(&wire.account_id).map_err(|e| Unidentified {
        invalid: Invalid::new(format!("account_id of service {service}"), e),
        service: Some(service.clone()),
    })?;
    let rejected =
        |reason: String| Change::Rejected(Rejected { service: service.clone(), account: account.clone(), reason });
    if kind.is_err() {
        let invalid = Invalid::new("type", format!("{} is no kind of change known here", wire.r#type));
        return Ok(rejected(invalid.to_string()));
    }
    let token = OneTimeToken(Secret::from(&*wire.auth_token));
    Ok(match mapping_from_wire(service.clone(), account.clone(), wire) {
        Ok(mapping) => Change::Upsert(Box::new(mapping), token),
        Err(invalid) => rejected(invalid.to_string()),
    })
}

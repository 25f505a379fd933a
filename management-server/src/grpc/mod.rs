//! `management.ProxyService` and `postern.v1.Proxy`, as proxies call them.

mod logs;
mod mappings;
mod peers;
mod service;

pub(crate) use service::Rpc;

//! placeholder
/// s
#[derive(Debug, Clone, serde::Deserialize)]
pub struct HttpSettings {
    /// c
    pub connect_timeout_ms: u64,
    /// t
    pub timeout_ms: u64,
    /// p
    pub pool_idle_ms: u64,
}

//! Shared HTTP client

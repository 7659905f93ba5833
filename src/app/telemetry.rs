//! What the process writes to standard error, and the numbers it counts.

use std::{io::IsTerminal as _, sync::OnceLock};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::settings::Log;

/// Starts logging to standard error. `RUST_LOG` wins over the settings. Called again, it changes nothing.
pub fn init_tracing(log: &Log) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(&log.filter));
    // Colours are for people; a file would keep their escape codes.
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    let started = if log.format == "json" { lines.json().try_init() } else { lines.try_init() };
    // Another subscriber is in place already: that of a test.
    started.ok();
}

/// The process's counters, as `/metrics` shows them.
pub fn metrics_handle() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    let handle = HANDLE.get_or_init(|| {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("another recorder counts; /metrics will be empty");
        }
        handle
    });
    handle.clone()
}

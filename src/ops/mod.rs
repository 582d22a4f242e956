//! What operators see: logs, metrics, signals and the service manager.

pub mod log;
pub mod metrics;
pub mod signals;
pub mod sync_metrics;
pub mod systemd;

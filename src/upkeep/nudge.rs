//! How somebody makes upkeep look at once.

use tokio::sync::Notify;

/// Wakes the parts of upkeep in this process.
#[derive(Debug, Default)]
pub struct Nudge {
    sweep: Notify,
    rounds: Notify,
    alarms: Notify,
}

impl Nudge {
    /// There is something for the sweep: a hold was closed.
    pub fn sweep(&self) {
        self.sweep.notify_one();
    }

    /// Everything is to be done now, what is done once in a long while too.
    pub fn everything(&self) {
        self.sweep.notify_one();
        self.rounds.notify_one();
        self.alarms.notify_one();
    }

    pub(super) async fn for_sweep(&self) {
        self.sweep.notified().await;
    }

    pub(super) async fn for_alarms(&self) {
        self.alarms.notified().await;
    }

    pub(super) async fn for_rounds(&self) {
        self.rounds.notified().await;
    }
}

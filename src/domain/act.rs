//! What people do to what is being sent: each act leaves a row that says who, when, why and how much.

use crate::domain::named;

named! {
    /// An act of a person.
    pub enum Act {
        /// A batch was paused.
        Pause = "pause",
        /// A batch was let go on.
        Resume = "resume",
        /// A batch or a message was given up.
        Cancel = "cancel",
        /// A hold was opened.
        HoldOpen = "hold_open",
        /// A hold was closed.
        HoldClose = "hold_close",
        /// A hold that waited for another person was closed by one.
        Approve = "approve",
        /// Uncertain messages were decided about.
        Resolve = "resolve",
        /// Failed messages were sent again.
        Resend = "resend",
        /// Failures were seen to.
        Acknowledge = "acknowledge",
        /// A campaign was made or changed.
        CampaignApply = "campaign_apply",
        /// A campaign was fired.
        CampaignRun = "campaign_run",
        /// A campaign was sent to a few for a test.
        CampaignTest = "campaign_test",
        /// A campaign was paused.
        CampaignPause = "campaign_pause",
        /// A campaign was let go on.
        CampaignResume = "campaign_resume",
        /// A campaign was archived.
        CampaignArchive = "campaign_archive",
        /// What a campaign had not sent yet was given up.
        CampaignCancel = "campaign_cancel",
        /// The registry was changed.
        RegistryApply = "registry_apply",
        /// A token was made.
        TokenCreate = "token_create",
        /// A token was revoked.
        TokenRevoke = "token_revoke",
        /// Recipients were suppressed.
        Suppress = "suppress",
        /// A suppression was lifted.
        Unsuppress = "unsuppress",
        /// Messages were marked after the database went back in time.
        Recover = "recover",
    }
}

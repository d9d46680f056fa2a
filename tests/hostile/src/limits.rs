//! Limits on what should happen soon. No test depends on them, unless something hangs.

use std::time::Duration;

/// Time after which a client's process that does nothing waits.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// Limit on anything that should happen at once, against hanging: far above what a GiB from the guest takes in a client
/// without optimisation on a busy host.
pub(crate) const GUARD: Duration = Duration::from_secs(300);

//! A transfer to or from a guest, with progress if it takes long; a signal stops it.

use std::{
    cell::Cell,
    future::{Future, pending},
    io,
    path::Path,
    pin::{Pin, pin},
    time::Duration,
};

use banger_api::{ApiError, ErrorKind, OperationEvent};
use banger_client::{Client, CopyEvent, PackError, Source};
use tokio::time::sleep;

use crate::{
    error::CommandError,
    session::explain_vm_exit,
    signals,
    ui::{Progress, Ui},
};

/// Interval of progress updates; a quicker transfer shows none.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// Callback that receives the transfer's events.
pub(crate) type OnEvent<'a> = &'a mut dyn FnMut(CopyEvent);

/// Future that completes when the user stops the transfer.
pub(crate) type Cancelled<'a> = Pin<&'a mut dyn Future<Output = ()>>;

/// A transfer to or from `vm`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Transfer<'a> {
    pub(crate) client: &'a Client,
    pub(crate) ui: &'a Ui,
    pub(crate) vm: &'a str,
    /// Description for people: "Copying into box".
    pub(crate) stage: &'a str,
    /// Whether to show progress.
    pub(crate) show_progress: bool,
}

impl Transfer<'_> {
    /// Runs `work`. A signal stops it, and `work` then removes partial results.
    pub(crate) async fn run<T>(
        self,
        work: impl AsyncFnOnce(OnEvent<'_>, Cancelled<'_>) -> Result<T, ApiError>,
    ) -> Result<T, CommandError> {
        let phase = signals::cancellable();
        let (signal, transferred) = (Cell::new(None), Cell::new(0));
        let cancelled = pin!(async { signal.set(Some(phase.cancelled().await)) });
        let progress = Progress::new();
        let mut on_event = |event| match event {
            CopyEvent::Progress(bytes) => transferred.set(bytes),
            CopyEvent::Skipped(message) => progress.show(self.ui, &OperationEvent::Warning { message }),
        };
        let show = async {
            if !self.show_progress {
                return pending::<()>().await;
            }
            progress.show(self.ui, &OperationEvent::Stage { stage: self.stage.to_owned() });
            loop {
                sleep(PROGRESS_INTERVAL).await;
                progress.show(self.ui, &OperationEvent::Progress { done: transferred.get(), total: None });
            }
        };
        let result = tokio::select! {
            result = work(&mut on_event, cancelled) => Some(result),
            () = show => None,
        };
        progress.clear();
        let Some(result) = result else { return Err(CommandError::already_reported(1)) };
        match (result, signal.get()) {
            (Ok(result), _) => Ok(result),
            (Err(error), Some(signal)) => {
                self.ui.note(error);
                Err(signals::interrupted(signal))
            }
            (Err(error), None) if error.kind == ErrorKind::Guest => {
                Err(explain_vm_exit(self.client, self.vm, error).await.into())
            }
            (Err(error), None) => Err(error.into()),
        }
    }
}

/// Opens a user's files to send them to a guest.
pub(crate) fn open_source(path: &Path, follow_link: bool) -> Result<Source, ApiError> {
    Source::open(path, follow_link).map_err(unreadable)
}

fn unreadable(error: PackError) -> ApiError {
    let kind = match &error {
        PackError::Read { source, .. } => match source.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::PermissionDenied => ErrorKind::NotPermitted,
            _ => ErrorKind::Io,
        },
        PackError::Special { .. } => ErrorKind::Invalid,
    };
    ApiError::new(kind, error.to_string())
}

//! A transfer to or from a guest, with progress if it takes long; Ctrl-C stops it.

use std::{
    cell::Cell,
    future::{Future, pending},
    io,
    path::Path,
    pin::{Pin, pin},
    time::Duration,
};

use banger_api::{ApiError, ErrorKind, Event};
use banger_client::{Client, CopyEvent, PackError, Source};
use rustix::process::Signal;
use tokio::time::sleep;

use crate::{
    error::CommandError,
    session::{self, told_better},
    ui::{Progress, Ui},
};

/// Interval of progress updates; a quicker transfer shows none.
const SHOW: Duration = Duration::from_millis(500);

/// Callback that receives the transfer's events.
pub(crate) type Tell<'a> = &'a mut dyn FnMut(CopyEvent);

/// Future that completes when the user stops the transfer.
pub(crate) type Stop<'a> = Pin<&'a mut dyn Future<Output = ()>>;

/// A transfer to or from `vm`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Transfer<'a> {
    pub(crate) client: &'a Client,
    pub(crate) ui: &'a Ui,
    pub(crate) vm: &'a str,
    /// Description for people: "Copying into box".
    pub(crate) stage: &'a str,
    /// Whether to show progress.
    pub(crate) shown: bool,
}

impl Transfer<'_> {
    /// Runs `work`. Ctrl-C stops it, and `work` then removes partial results.
    pub(crate) async fn run<T>(
        self,
        work: impl AsyncFnOnce(Tell<'_>, Stop<'_>) -> Result<T, ApiError>,
    ) -> Result<T, CommandError> {
        let mut signals = session::signals(&[Signal::INT, Signal::TERM, Signal::HUP])?;
        let (signal, through) = (Cell::new(None), Cell::new(0));
        let stop = pin!(async { signal.set(signals.recv().await) });
        let progress = Progress::new();
        let mut tell = |event| match event {
            CopyEvent::Through(bytes) => through.set(bytes),
            CopyEvent::PassedOver(message) => progress.show(self.ui, &Event::Warning { message }),
        };
        let show = async {
            if !self.shown {
                return pending::<()>().await;
            }
            progress.show(self.ui, &Event::Stage { stage: self.stage.to_owned() });
            loop {
                sleep(SHOW).await;
                progress.show(self.ui, &Event::Progress { done: through.get(), total: None });
            }
        };
        let done = tokio::select! {
            done = work(&mut tell, stop) => Some(done),
            () = show => None,
        };
        progress.clear();
        let Some(done) = done else { return Err(CommandError::told(1)) };
        match (done, signal.get()) {
            (Ok(done), _) => Ok(done),
            (Err(error), Some(signal)) => {
                self.ui.note(error);
                Err(CommandError::interrupted(signal))
            }
            (Err(error), None) if error.kind == ErrorKind::Guest => {
                Err(told_better(self.client, self.vm, error).await.into())
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

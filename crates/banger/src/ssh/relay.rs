//! The flow of a channel's bytes to the guest.

use std::{pin::pin, time::Duration};

use banger_api::{ApiError, ErrorKind};
use banger_client::ExecInput;
use banger_proto::TerminalSize;
use banger_ssh_server::{Closed, Control, MAX_PACKET, Part, Reader};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

/// Timeout for the guest to accept what ssh sent before it closed the channel.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Sends the channel's data to the guest until ssh closes the channel or wants no more output. Data that ssh sent
/// before it closed the channel still arrives.
pub(super) async fn forward_input(
    mut input: ExecInput,
    mut channel: Reader,
    mut controls: mpsc::UnboundedReceiver<Control>,
) -> Result<(), ApiError> {
    let (mut input_ended, mut is_drained, mut deadline) = (false, false, None);
    let max = MAX_PACKET as usize;
    while !(is_drained && (!input_ended || input.all_read())) {
        tokio::select! {
            () = input.wait_until_read(), if is_drained => {}
            () = input.wait_for_window(max), if !is_drained && input.window() < max => {}
            control = controls.recv(), if deadline.is_none() => match control {
                Some(Control::Resize(size)) => input.resize(terminal_size(size)).await?,
                Some(Control::Signal(signal)) => input.signal(signal).await?,
                // To the program, this is a broken connection.
                Some(Control::OutputClosed) => return Ok(()),
                None => deadline = Some(Instant::now() + DRAIN_TIMEOUT),
            },
            part = channel.next(), if !is_drained && input.window() >= max => match part {
                Some(Part::Data(bytes)) => {
                    input.stdin(&bytes).await?;
                    channel.consumed(bytes.len()).await.map_err(closed)?;
                }
                Some(Part::End) => {
                    input_ended = true;
                    input.end_stdin().await?;
                }
                None => is_drained = true,
            },
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => return Ok(()),
        }
    }
    Ok(())
}

/// Returns how a channel or a forwarded connection ended, from its two halves: `output` from the guest and `input` to
/// it. Returns `None` if the host's side ended it.
pub(crate) async fn join_directions<T>(
    output: impl Future<Output = Result<T, ApiError>>,
    input: impl Future<Output = Result<(), ApiError>>,
) -> Result<Option<T>, ApiError> {
    let mut output = pin!(output);
    tokio::select! {
        result = &mut output => result.map(Some),
        result = input => match result {
            Ok(()) => Ok(None),
            // A guest that accepts no more input has sent the reason, or will.
            Err(error) if error.kind == ErrorKind::Guest => output.await.map(Some),
            Err(error) => Err(error),
        },
    }
}

/// Returns the error for a channel that ssh has closed.
pub(super) fn closed(Closed: Closed) -> ApiError {
    ApiError::new(ErrorKind::Cancelled, "ssh has closed the channel")
}

/// Returns the size of a terminal as the guest's agent expects it.
pub(super) fn terminal_size(size: banger_ssh_server::TerminalSize) -> TerminalSize {
    TerminalSize { rows: size.rows, cols: size.columns }
}

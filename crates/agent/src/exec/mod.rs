//! Runs a program for the host: forwards its streams and signals, and reports its exit status.

mod output;
mod program;
mod shell;
mod stdin;

pub(crate) use program::{ROOT_PATH, login};

use std::{process::Command, rc::Rc, time::Duration};

use banger_proto::{Exec, ExecControl, Frame, Reply, Stream};
use banger_sys::{Terminal, signal_of};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinSet, spawn_local},
    time::timeout,
};

use crate::{
    children::{Child, Children},
    connection::{Incoming, Outgoing},
    failure::Failure,
    window::{QueueSender, WindowExceeded, queue},
};

/// Maximum number of frames queued for a slow host; beyond it, the program has to wait.
const MAX_WAITING_FRAMES: usize = 4;

/// Time for a program to end after SIGHUP, when its host has disconnected.
const HANG_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs `command`, the program of `request`, and reports the outcome to the host.
pub(crate) async fn exec(
    request: &Exec,
    command: Result<Command, Failure>,
    incoming: Incoming,
    mut outgoing: Outgoing,
    children: &Children,
) {
    let program = match command.and_then(|command| program::start(request, command, children)) {
        Ok(program) => program,
        Err(failure) => {
            // The host may have closed the connection.
            let _ = outgoing.send_message(&Reply::from(failure)).await;
            return outgoing.finish().await;
        }
    };
    let mut child = program.child;
    let started = Reply::Started { pid: u32::try_from(child.pid.as_raw_pid()).unwrap_or_default() };
    if outgoing.send_message(&started).await.is_err() {
        return hang_up(child).await;
    }
    let (frames, mut waiting) = mpsc::channel(MAX_WAITING_FRAMES);
    let (end, ended) = watch::channel(false);
    let (to_stdin, stdin) = queue();
    // All tasks are aborted when this function returns.
    let mut tasks = JoinSet::new();
    tasks.spawn_local(stdin::feed(program.input, stdin, frames.clone(), ended.clone()));
    for (source, stream) in program.outputs {
        tasks.spawn_local(output::forward(source, stream, frames.clone(), ended.clone()));
    }
    drop(frames);
    let writer = spawn_local(async move {
        while let Some(frame) = waiting.recv().await {
            outgoing.send(&frame).await?;
        }
        std::io::Result::Ok(outgoing)
    });
    let status = tokio::select! {
        status = &mut child.ended => status,
        () = handle_messages(incoming, child.pid, program.terminal, to_stdin) => return hang_up(child).await,
    };
    // The tasks send the program's remaining output and end, which closes the queue.
    end.send_replace(true);
    if let (Ok(status), Ok(Ok(mut outgoing))) = (status, writer.await) {
        // The host may have closed the connection.
        let _ = outgoing.send_message(&Reply::Exited { status }).await;
        outgoing.finish().await;
    }
}

/// Carries out the host's messages, until it disconnects or sends an invalid one.
async fn handle_messages(
    mut incoming: Incoming,
    pid: Pid,
    terminal: Option<Rc<Terminal>>,
    stdin: QueueSender,
) {
    while let Ok(Some(frame)) = incoming.next().await {
        let control = match &frame {
            Frame::Data(Stream::Stdin, bytes) => match stdin.push(bytes.clone()) {
                Ok(()) => continue,
                Err(WindowExceeded) => return,
            },
            Frame::Data(..) => return,
            Frame::Control(_) => frame.parse::<ExecControl>(),
        };
        match (control, &terminal) {
            (Ok(ExecControl::Resize(size)), Some(terminal)) => {
                // The program may have ended.
                let _ = terminal.resize(size.rows, size.cols);
            }
            (Ok(ExecControl::Signal { signal }), _) => {
                if let Some(signal) = signal_of(signal) {
                    // The program may have ended just now.
                    let _ = kill_process_group(pid, signal);
                }
            }
            (Ok(_), _) => {}
            (Err(_), _) => return,
        }
    }
}

/// Ends a program whose host has disconnected, as a terminal does when its line breaks.
async fn hang_up(child: Child) {
    for signal in [Signal::HUP, Signal::CONT] {
        // The program may have ended just now.
        let _ = kill_process_group(child.pid, signal);
    }
    if timeout(HANG_UP_TIMEOUT, child.ended).await.is_err() {
        let _ = kill_process_group(child.pid, Signal::KILL);
    }
}

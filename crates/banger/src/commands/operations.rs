use std::process::ExitCode;

use banger_api::{Operation, OperationState, Size};
use banger_client::Client;
use serde_json::Value;

use super::reference::reference;
use crate::{
    error::CommandError,
    operation::follow,
    ui::{Format, Table, Ui},
};

/// Show the daemon's operations, follow one, or cancel one
///
/// An operation stays listed for ten minutes after it has ended.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    before_help = "Examples:
  banger operations
  banger operations --follow 3fa9
  banger operations cancel 3fa9"
)]
pub(crate) struct Operations {
    #[command(subcommand)]
    command: Option<OperationsCommand>,
    /// Include operations that have ended
    #[arg(short, long)]
    all: bool,
    /// Follow this operation until it ends
    #[arg(short, long, value_name = "ID", value_parser = reference())]
    follow: Option<String>,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Subcommand)]
enum OperationsCommand {
    /// Cancel an operation and undo its changes
    Cancel {
        /// Id, or a unique prefix of it
        #[arg(value_parser = reference())]
        operation: String,
    },
}

impl Operations {
    pub(crate) async fn run(self, ui: &Ui) -> Result<ExitCode, CommandError> {
        let client = Client::new()?;
        if let Some(OperationsCommand::Cancel { operation }) = self.command {
            client.cancel(&operation).await?;
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(operation) = self.follow {
            let mut events = client.follow_operation(&operation).await?;
            // Its result is for the command that started it.
            follow::<Value>(&mut events, ui, "the operation continues").await?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut operations = client.operations().await?;
        operations.retain(|operation| self.all || operation.state == OperationState::Running);
        ui.list(&self.format, &operations, |operation| operation.id.to_string(), |list| table(ui, list))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn table(ui: &Ui, operations: &[Operation]) -> Table {
    let mut table = Table::new(["ID", "KIND", "TARGET", "STATE", "STAGE", "SINCE", "OWNER"]);
    for operation in operations {
        table.row([
            operation.id.to_string(),
            operation.kind.as_str().to_owned(),
            operation.target.clone(),
            operation.state.as_str().to_owned(),
            stage(operation),
            ui.ago(operation.since),
            operation.owner.map(|uid| uid.to_string()).unwrap_or_default(),
        ]);
    }
    table
}

fn stage(operation: &Operation) -> String {
    match (operation.done_bytes, operation.total_bytes) {
        (Some(done), Some(total)) => {
            format!("{}: {} of {}", operation.stage, Size::bytes(done), Size::bytes(total))
        }
        (Some(done), None) => format!("{}: {}", operation.stage, Size::bytes(done)),
        (None, _) => operation.stage.clone(),
    }
}

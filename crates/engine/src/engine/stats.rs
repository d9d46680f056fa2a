//! What VMs use.

use std::{collections::HashSet, sync::Arc};

use banger_api::{ApiError, ErrorKind, VmStats, resolve};
use tokio::task::JoinSet;

use super::Engine;
use crate::{host::unresolved, stats::stats};

impl Engine {
    /// What the VMs use that `references` name, each once; of none, all that run.
    ///
    /// # Errors
    /// When a reference names none or several, or the store cannot be read.
    pub async fn stats(&self, references: &[String]) -> Result<Vec<VmStats>, ApiError> {
        let vms = self.0.store.vms()?;
        let mut wanted = Vec::new();
        if references.is_empty() {
            wanted.extend(vms.into_iter().filter(|vm| vm.handle.is_some()));
        } else {
            let mut seen = HashSet::new();
            for reference in references {
                let vm = resolve(&vms, reference).map_err(|error| unresolved("VM", reference, error))?;
                if seen.insert(&vm.id) {
                    wanted.push(vm.clone());
                }
            }
        }
        // All at once: a silent guest delays nobody's answer.
        let mut asked = JoinSet::new();
        for (place, vm) in wanted.into_iter().enumerate() {
            let host = Arc::clone(&self.0);
            asked.spawn(async move { stats(&host, vm).await.map(|stats| (place, stats)) });
        }
        let mut all = Vec::new();
        while let Some(one) = asked.join_next().await {
            let one = one.map_err(|error| ApiError::new(ErrorKind::Internal, error.to_string()))?;
            all.push(one?);
        }
        all.sort_by_key(|(place, _)| *place);
        Ok(all.into_iter().map(|(_, stats)| stats).collect())
    }
}

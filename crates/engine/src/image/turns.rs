//! Which request fetches which image.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use banger_api::ImageName;
use tokio::sync::{OwnedMutexGuard, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// Turns at fetching: of several requests for one image, one fetches it and the others wait.
#[derive(Debug, Default)]
pub(super) struct Turns {
    turns: Mutex<HashMap<ImageName, Weak<tokio::sync::Mutex<()>>>>,
    /// Shared by those who fetch: what is in the cache stays while anyone does.
    cache: Arc<RwLock<()>>,
}

impl Turns {
    /// Waits until nobody else fetches `name`.
    pub(super) async fn turn(&self, name: &ImageName) -> (OwnedMutexGuard<()>, OwnedRwLockReadGuard<()>) {
        let turns = {
            let mut all = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, turns| turns.strong_count() > 0);
            let there = all.get(name).and_then(Weak::upgrade);
            there.unwrap_or_else(|| {
                let turns = Arc::default();
                all.insert(name.clone(), Arc::downgrade(&turns));
                turns
            })
        };
        (turns.lock_owned().await, self.cache.clone().read_owned().await)
    }

    /// Waits until nobody fetches anything; nobody does until what this gives is dropped.
    pub(super) async fn none(&self) -> OwnedRwLockWriteGuard<()> {
        self.cache.clone().write_owned().await
    }
}

//! Locks that let one request at a time fetch an image.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use banger_api::ImageName;
use tokio::sync::{OwnedMutexGuard, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// Locks for fetching: of concurrent requests for one image, one fetches it and the others wait.
#[derive(Debug, Default)]
pub(super) struct Turns {
    turns: Mutex<HashMap<ImageName, Weak<tokio::sync::Mutex<()>>>>,
    /// Shared by all fetches: the cache is not cleaned while one is running.
    cache: Arc<RwLock<()>>,
}

impl Turns {
    /// Waits until no other request is fetching `name`.
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

    /// Waits until no request is fetching. None starts until the returned guard is dropped.
    pub(super) async fn none(&self) -> OwnedRwLockWriteGuard<()> {
        self.cache.clone().write_owned().await
    }
}

//! Locks that let one request at a time fetch an image.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use banger_api::ImageName;
use tokio::sync::{OwnedMutexGuard, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// Locks for fetching: of concurrent requests for one image, one fetches it and the others wait.
#[derive(Debug, Default)]
pub(super) struct FetchLocks {
    locks: Mutex<HashMap<ImageName, Weak<tokio::sync::Mutex<()>>>>,
    /// Shared by all fetches: the cache is not cleaned while one is running.
    cache: Arc<RwLock<()>>,
}

impl FetchLocks {
    /// Waits until no other request is fetching `name`.
    pub(super) async fn lock(&self, name: &ImageName) -> (OwnedMutexGuard<()>, OwnedRwLockReadGuard<()>) {
        let lock = {
            let mut all = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, lock| lock.strong_count() > 0);
            let existing = all.get(name).and_then(Weak::upgrade);
            existing.unwrap_or_else(|| {
                let lock = Arc::default();
                all.insert(name.clone(), Arc::downgrade(&lock));
                lock
            })
        };
        (lock.lock_owned().await, self.cache.clone().read_owned().await)
    }

    /// Waits until no request is fetching. None starts until the returned guard is dropped.
    pub(super) async fn lock_all(&self) -> OwnedRwLockWriteGuard<()> {
        self.cache.clone().write_owned().await
    }
}

//! Unpacks an image's layers on several threads.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::{ImageError, Progress};

/// Maximum number of layers unpacked at once.
const MAX_THREADS: usize = 4;

/// Calls `unpack` for each layer on several threads, and returns the results in the layers' order.
///
/// # Errors
/// Returns the first error. It stops the other layers at their next read.
pub(super) fn each_layer<T: Send, R: Read + Send>(
    layers: Vec<R>,
    progress: &dyn Progress,
    unpack: impl Fn(usize, &mut dyn Read) -> Result<T, ImageError> + Sync,
) -> Result<Vec<T>, ImageError> {
    let first = FirstFailure::default();
    let results = each_layer_until(layers, &first, progress, unpack);
    match first.into_inner() {
        None => Ok(results),
        Some(_) if progress.cancelled() => Err(ImageError::Cancelled),
        Some(failure) => Err(failure.error),
    }
}

/// Like [`each_layer`], but shares `first` with other work, so that either side's failure stops both. Without a
/// failure there is one value per layer.
pub(super) fn each_layer_until<T: Send, R: Read + Send>(
    layers: Vec<R>,
    first: &FirstFailure,
    progress: &dyn Progress,
    unpack: impl Fn(usize, &mut dyn Read) -> Result<T, ImageError> + Sync,
) -> Vec<T> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS).min(layers.len());
    let next = AtomicUsize::new(0);
    let slots: Vec<_> = layers.into_iter().map(|layer| Mutex::new((Some(layer), None))).collect();
    let work = || {
        while !first.occurred() {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(slot) = slots.get(index) else { return };
            let Some(layer) = lock(slot).0.take() else { return };
            match unpack(index, &mut CancellableReader { layer, first, progress }) {
                Ok(result) => lock(slot).1 = Some(result),
                Err(error) => first.set(Failure { index, error, unpacking: true }),
            }
        }
    };
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    slots.into_iter().filter_map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner).1).collect()
}

fn lock<T>(slot: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The error that ended the work on an image's layers.
pub(super) struct Failure {
    /// Index of the layer.
    pub(super) index: usize,
    pub(super) error: ImageError,
    /// Whether the layer's bytes could be read, but not unpacked.
    pub(super) unpacking: bool,
}

/// Keeps only the first failure, because later ones are probably its consequences.
#[derive(Default)]
pub(super) struct FirstFailure {
    failure: Mutex<Option<Failure>>,
    occurred: AtomicBool,
}

impl FirstFailure {
    pub(super) fn set(&self, failure: Failure) {
        lock(&self.failure).get_or_insert(failure);
        self.occurred.store(true, Ordering::Release);
    }

    pub(super) fn occurred(&self) -> bool {
        self.occurred.load(Ordering::Acquire)
    }

    pub(super) fn into_inner(self) -> Option<Failure> {
        self.failure.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reader of a layer that fails once the work has failed or was cancelled.
struct CancellableReader<'a, R> {
    layer: R,
    first: &'a FirstFailure,
    progress: &'a dyn Progress,
}

impl<R: Read> Read for CancellableReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.first.occurred() || self.progress.cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        self.layer.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Silent;

    fn text(_: usize, layer: &mut dyn Read) -> Result<String, ImageError> {
        let mut text = String::new();
        match layer.read_to_string(&mut text) {
            Ok(_) => Ok(text),
            Err(source) => Err(ImageError::Io { operation: "read", path: "layer".into(), source }),
        }
    }

    /// Never ends.
    struct Endless;
    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            buffer.fill(b'x');
            Ok(buffer.len())
        }
    }

    #[test]
    fn results_are_in_the_order_of_the_layers() {
        let layers: Vec<String> = (0..50).map(|n| n.to_string()).collect();
        let readers = layers.iter().map(|layer| layer.as_bytes()).collect();
        assert_eq!(each_layer(readers, &Silent, text).unwrap(), layers);
        assert!(each_layer(Vec::<&[u8]>::new(), &Silent, text).unwrap().is_empty());
    }

    #[test]
    fn the_first_failure_stops_the_other_layers() {
        // A single thread would never reach the second layer.
        if thread::available_parallelism().unwrap().get() == 1 {
            return;
        }
        let layers: Vec<Box<dyn Read + Send>> = vec![Box::new(Endless), Box::new(&b"\xff"[..])];
        let failed = each_layer(layers, &Silent, |index, layer| match index {
            0 => {
                let read = io::copy(layer, &mut io::sink()).unwrap_err();
                Err(ImageError::Io { operation: "unpack", path: "first".into(), source: read })
            }
            _ => text(index, layer),
        });
        assert!(matches!(failed, Err(ImageError::Io { operation: "read", .. })), "{failed:?}");
    }
}

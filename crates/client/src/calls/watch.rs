//! Logs, resource use, and events of the daemon.

use std::fmt::Write;

use banger_api::{ApiError, Id, ReadLog, VmStats, WatchEvents};
use hyper::Method;

use super::{Client, vms::vm_path};
use crate::{
    http::{nothing, segment},
    parts::Parts,
};

impl Client {
    /// Returns a log of a VM.
    ///
    /// # Errors
    /// Returns an error if there is no such VM.
    pub async fn logs(&self, reference: &str, read: &ReadLog) -> Result<Parts, ApiError> {
        self.parts(&format!("{}/logs{}", vm_path(reference), log_query(read))).await
    }

    /// Returns the daemon's own log.
    ///
    /// # Errors
    /// Returns an error if the request fails.
    pub async fn daemon_log(&self, read: &ReadLog) -> Result<Parts, ApiError> {
        self.parts(&format!("/v1/daemon/logs{}", log_query(read))).await
    }

    /// Returns the daemon's events: lines of JSON, each a [`Happening`](banger_api::Happening).
    ///
    /// # Errors
    /// Returns an error if the request fails.
    pub async fn events(&self, watch: WatchEvents) -> Result<Parts, ApiError> {
        let mut path = format!("/v1/events?follow={}", watch.follow);
        if let Some(since) = watch.since {
            add(&mut path, "since", &since.to_string());
        }
        self.parts(&path).await
    }

    /// Returns the resource use of these VMs; if `vms` is empty, of all running VMs.
    ///
    /// # Errors
    /// Returns an error if one of them no longer exists.
    pub async fn stats(&self, vms: &[Id]) -> Result<Vec<VmStats>, ApiError> {
        let vms: Vec<_> = vms.iter().map(Id::as_str).collect();
        self.call(Method::GET, &format!("/v1/stats?vms={}", vms.join(",")), nothing).await
    }

    async fn parts(&self, path: &str) -> Result<Parts, ApiError> {
        Ok(Parts::new(self.sent(Method::GET, path, || Ok(nothing())).await?.into_body()))
    }
}

fn log_query(read: &ReadLog) -> String {
    let mut query = format!("?source={}&follow={}", read.source.as_str(), read.follow);
    if let Some(since) = read.since {
        add(&mut query, "since", &since.to_string());
    }
    if let Some(tail) = read.tail {
        add(&mut query, "tail", &tail.to_string());
    }
    query
}

fn add(query: &mut String, name: &str, value: &str) {
    // Writing to a string does not fail.
    let _ = write!(query, "&{name}={}", segment(value));
}

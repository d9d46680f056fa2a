//! Logs, resource use, and events of the daemon.

use std::fmt::Write;

use banger_api::{ApiError, Id, ReadFlows, ReadLog, VmStats, WatchEvents};
use hyper::Method;

use super::{Client, vms::vm_path};
use crate::{
    byte_stream::ByteStream,
    http::{empty_body, segment},
};

impl Client {
    /// Returns a log of a VM.
    ///
    /// # Errors
    /// Returns an error if there is no such VM.
    pub async fn logs(&self, reference: &str, read: &ReadLog) -> Result<ByteStream, ApiError> {
        self.byte_stream(&format!("{}/logs{}", vm_path(reference), log_query(read))).await
    }

    /// Returns what a VM's network was asked for: lines of JSON, each a [`Flow`](banger_api::Flow).
    ///
    /// # Errors
    /// Returns an error if there is no such VM.
    pub async fn flows(&self, reference: &str, read: ReadFlows) -> Result<ByteStream, ApiError> {
        self.byte_stream(&format!("{}/network?follow={}", vm_path(reference), read.follow)).await
    }

    /// Returns the daemon's own log.
    ///
    /// # Errors
    /// Returns an error if the request fails.
    pub async fn daemon_log(&self, read: &ReadLog) -> Result<ByteStream, ApiError> {
        self.byte_stream(&format!("/v1/daemon/logs{}", log_query(read))).await
    }

    /// Returns the daemon's events: lines of JSON, each an [`Event`](banger_api::Event).
    ///
    /// # Errors
    /// Returns an error if the request fails.
    pub async fn events(&self, watch: WatchEvents) -> Result<ByteStream, ApiError> {
        let mut path = format!("/v1/events?follow={}", watch.follow);
        if let Some(since) = watch.since {
            add(&mut path, "since", &since.to_string());
        }
        self.byte_stream(&path).await
    }

    /// Returns the resource use of these VMs; if `vms` is empty, of all running VMs.
    ///
    /// # Errors
    /// Returns an error if one of them no longer exists.
    pub async fn stats(&self, vms: &[Id]) -> Result<Vec<VmStats>, ApiError> {
        let vms: Vec<_> = vms.iter().map(Id::as_str).collect();
        self.call(Method::GET, &format!("/v1/stats?vms={}", vms.join(",")), empty_body).await
    }

    async fn byte_stream(&self, path: &str) -> Result<ByteStream, ApiError> {
        Ok(ByteStream::new(self.send_retrying(Method::GET, path, || Ok(empty_body())).await?.into_body()))
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

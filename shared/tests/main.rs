//! What readers and invalidators share, on real servers and against the documents: one binary, because each links the AWS SDKs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(feature = "aws")]
mod aws_services;
mod golden_entries;
#[cfg(feature = "memory")]
mod memory_differential;
#[cfg(feature = "dynamodb")]
mod park_stores;
mod pipeline_failover;
mod pipeline_isolation;
mod pipeline_order;
mod pipeline_ring_file;
mod pipeline_ring_moves;
mod support;
#[cfg(feature = "cluster")]
mod valkey_cluster;
#[cfg(feature = "cluster")]
mod valkey_cluster_changes;
mod valkey_connection;
mod valkey_credentials;
mod valkey_invalidation;
mod valkey_leases;

//! A fleet of whole workers on a simulated cloud: one thread, paused time, everything from one seed.
//!
//! ```text
//! plan (seed -> world, events) -> run -> fleet (workers) -> source, leases, ring (the seams) -> cloud
//!                                                                |
//!                                                             ledger: what must hold, at every step
//! ```
//!
//! - `cloud`: tables, streams, stream shards, records and iterators, as strict as DynamoDB Streams
//! - `source`, `leases`, `ring`: the worker's seams, with latency, faults and hanging calls
//! - `ledger`: the properties; `readers`: who reads a stream shard at one time
//! - `flaw`: planted defects, each of which has to be found
//! - `campaign`: many seeds; `rollover`: how soon a child is read; `scale`: what a stream shard costs
//!
//! `docs/simulation.md` tells what is modelled and how to replay a seed.

mod campaign;
mod cloud;
mod flaw;
mod fleet;
mod leases;
mod ledger;
mod line;
mod plan;
mod readers;
mod ring;
mod rollover;
mod run;
mod scale;
mod source;
mod world;

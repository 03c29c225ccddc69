//! Tests of the adapters: random walks beside a model, with failures injected.

mod concat;
mod dead;
mod merging;
mod sources;
mod visible;

//! Flush and compaction as functions: files and memtables in, files and an edit out. Nothing here
//! takes a lock or changes a version; the engine installs what a job returns.
//!
//! *Overview of types.* The [`picker`] looks at a version and returns a [`plan::Plan`], which keeps of
//! that version only what the job reads, and what is known of the files [`beneath`]. A
//! [`job`] merges the plan's inputs, lets [`stream::Survivors`] decide which entries live, and
//! gives them to [`output::Output`], which cuts files; large values go to blob files on the way
//! ([`apart::Apart`]). [`flush`] does the same for memtables.

pub(crate) mod apart;
pub(crate) mod beneath;
pub(crate) mod flush;
pub(crate) mod job;
pub(crate) mod output;
pub(crate) mod pace;
pub(crate) mod picker;
pub(crate) mod plan;
pub(crate) mod ranges;
pub(crate) mod stream;

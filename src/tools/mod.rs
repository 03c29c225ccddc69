//! Tools for the files of a database, open or not: [`dump`](dump::dump) prints one as text.

pub(crate) mod dump;

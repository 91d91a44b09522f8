#![allow(unused)]
pub mod model;
pub mod query;
pub mod state;
pub mod alert;
pub mod decode;
pub mod ingest;
pub mod intake;
pub mod normalise;
pub mod store;

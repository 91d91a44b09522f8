//! Questions over history: aggregates, series and latest values.

pub mod aggregate;
pub mod ask;
pub mod function;
pub mod health;
pub mod window;

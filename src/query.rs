//! Questions over history: aggregates, series and latest values.

pub mod aggregate;
pub mod ask;
pub mod consumption;
pub mod function;
pub mod health;
pub mod plan;
pub mod tariff;

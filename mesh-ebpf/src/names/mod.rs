//! Questions of tasks to Docker's resolver.

pub mod cache;
pub mod resolver;

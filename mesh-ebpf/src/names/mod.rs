//! Questions of tasks to Docker's resolver.

pub(crate) mod cache;
pub(crate) mod resolver;

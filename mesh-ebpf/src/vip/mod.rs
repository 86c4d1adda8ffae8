//! At a task's port on an overlay: calls of virtual addresses.

pub(crate) mod call;

//! What the suites and the developer commands share: the lab, the images that run on it, the services made of them,
//! and clients to dial them.

pub mod capture;
pub mod client;
pub mod cmd;
mod deadline;
pub mod deaths;
pub mod dig;
pub mod filters;
pub mod images;
pub mod inside;
pub mod interrupt;
pub mod lab;
pub mod mesh;
pub mod paths;
pub mod priority;
pub mod recording;
pub mod service;
pub mod terminal;
pub mod vm;
pub mod wait;

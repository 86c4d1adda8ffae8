//! The loops against a Docker API that does what the test says.

mod docker_api;
mod following;
mod recording;
mod scenarios;

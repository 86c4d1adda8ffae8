//! The loops against a Docker and a Swarm manager that do what the test says.

mod agent;
mod docker_api;
mod following;
mod recording;
mod scenarios;
mod swarm_manager;
mod watching;

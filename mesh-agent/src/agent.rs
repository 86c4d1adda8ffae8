//! The wiring: every task and channel between the parts is made here and nowhere else.

use std::net::{SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval, sleep};
use tracing::{error, info, warn};

use crate::args::{HttpPlace, RunArguments, Switch};
use crate::core::{Core, Inputs, Outputs};
use crate::dataplane::agent_sockets::AgentSockets;
use crate::dataplane::clock::monotonic_nanoseconds;
use crate::dataplane::counters::Counters;
use crate::dataplane::flows::{Collection, Flows};
use crate::dataplane::heartbeat::Heartbeat;
use crate::dataplane::local_addresses::LocalAddresses;
use crate::dataplane::pins::Pins;
use crate::dns::resolver::{Resolver, ResolverSettings};
use crate::health::Vitals;
use crate::node::{self, namespaces};
use crate::reach::{self, Findings};
use crate::single::Single;
use crate::status::collect::Collector;
use crate::status::published::Published;
use crate::swarm::snapshot::LocalView;
use crate::swarm::source::{self, SourceHandles};
use crate::{dns, firewall, logging, status};

/// How often rates are taken.
const SAMPLE: Duration = Duration::from_secs(2);
/// How often the tables of flows are looked through, and while they are crowded.
const COLLECTION: Duration = Duration::from_secs(30);
const COLLECTION_CROWDED: Duration = Duration::from_secs(2);
/// How often the resolver's sign of life is renewed; the hooks miss it after 800 ms.
const HEARTBEAT: Duration = Duration::from_millis(200);
/// How old the resolver's last turn may be for it to count as alive.
const TURN: Duration = Duration::from_millis(500);

/// `mesh-agent run`: serves until it is told to stop. What it has set up serves on.
pub async fn run(arguments: RunArguments) -> ExitCode {
    let code = match serve(arguments).await {
        Ok(()) => {
            info!("stopped; the dataplane goes on without the agent");
            ExitCode::SUCCESS
        }
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    };
    logging::end();
    code
}

async fn serve(arguments: RunArguments) -> Result<()> {
    let _single = Single::take(&arguments.bpffs).await?;
    info!(version = env!("CARGO_PKG_VERSION"), "the mesh's agent starts");
    let pins = Pins::under(&arguments.bpffs);
    let (names_sender, names) = watch::channel(Arc::default());
    let (resolver_sender, resolver_address) = watch::channel(None);
    let (wanted_sender, wanted) = watch::channel(None);
    let (vitals_sender, vitals) = watch::channel(Vitals::default());
    let outputs = Outputs {
        published: Arc::default(),
        names: names_sender,
        resolver: resolver_sender,
        wanted: wanted_sender,
        vitals: vitals_sender,
    };
    let mut core = Core::start(&arguments, &pins, outputs.clone())?;

    let SourceHandles { snapshot, local, status: board } = source::spawn(arguments.source_settings());
    let (node_sender, node) = watch::channel(None);
    tokio::spawn(async move { node::watch(&node_sender).await });
    let mut addresses = LocalAddresses::open(&pins)?;
    tokio::spawn(async move { node::watch_new_addresses(move |address| addresses.add(address)).await });
    let (namespaces_sender, namespaces) = watch::channel(Arc::default());
    let docker_run = arguments.docker_run.clone();
    tokio::spawn(async move { namespaces::watch(&docker_run, &namespaces_sender).await });

    let (rules_sender, rules) = watch::channel(None);
    tokio::spawn(async move { firewall::watch(&rules_sender).await });

    let (pulses_sender, pulses) = watch::channel(Arc::default());
    let (paths_sender, paths) = watch::channel(Arc::default());
    let findings = Findings { pulses: pulses_sender, paths: paths_sender };
    tokio::spawn(reach::watch(wanted, findings, Arc::new(AgentSockets::open(&pins)?)));

    let resolver = Resolver::new(ResolverSettings::default(), names, Some(core.answers()));
    let (inside_sender, inside) = watch::channel(Arc::default());
    if arguments.dns == Switch::On {
        let docker_run = arguments.docker_run.clone();
        tokio::spawn(dns::inside::serve(
            docker_run,
            arguments.dns_port,
            resolver.clone(),
            inside_sender.clone(),
        ));
        tokio::spawn(answer_names(resolver.clone(), resolver_address));
        tokio::spawn(show_life(resolver.clone(), Heartbeat::open(&pins)?));
    }

    let (ask, inquiries) = mpsc::channel(1);
    let counters = Counters::open(&pins)?;
    let (collection_sender, collection) = watch::channel(Collection::default());
    tokio::spawn(collect_flows(Flows::open(&pins)?, outputs.published.clone(), collection_sender));
    let collector =
        Collector::new(counters, outputs.published, board, resolver, arguments.flows, ask, collection);
    let collector = Arc::new(collector.with_vitals(vitals));
    tokio::spawn(show_status(arguments.socket.clone(), collector.clone()));
    tokio::spawn(serve_http(arguments.http(), local.clone(), collector.clone()));
    tokio::spawn(async move {
        loop {
            let began = Instant::now();
            collector.sample();
            // Of many backends they are taken less often.
            sleep(SAMPLE.max(began.elapsed() * 20)).await;
        }
    });
    core.follow(Inputs { snapshot, local, node, namespaces, pulses, paths, inside, rules, inquiries }).await
}

/// Keeps flows that are over from piling up.
async fn collect_flows(
    mut flows: Flows,
    published: Arc<Mutex<Arc<Published>>>,
    collection: watch::Sender<Collection>,
) {
    loop {
        let known = published.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let limits = known.idle_limits();
        // The tables may be long, and each of their entries is a system call.
        let turn = tokio::task::spawn_blocking(move || {
            let found = flows.collect(monotonic_nanoseconds(), &limits);
            (flows, found)
        });
        let Ok((back, found)) = turn.await else {
            error!("the tables of flows are not looked after any more");
            return;
        };
        flows = back;
        if found.removed > 0 {
            info!(flows = found.removed, "forgot flows that were over or silent for too long");
        }
        let pause = if found.is_crowded() { COLLECTION_CROWDED } else { COLLECTION };
        collection.send_replace(found);
        sleep(pause).await;
    }
}

/// Answers names wherever the bridge's address is.
async fn answer_names(resolver: Arc<Resolver>, mut address: watch::Receiver<Option<SocketAddrV4>>) {
    loop {
        let here = *address.borrow_and_update();
        let serving = async {
            match here {
                Some(here) => dns::server::serve(here, resolver.clone()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            never = serving => match never {},
            changed = address.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// Tells the hooks that the resolver lives, for as long as its loops turn.
async fn show_life(resolver: Arc<Resolver>, mut heartbeat: Heartbeat) {
    let mut ticks = interval(HEARTBEAT);
    loop {
        ticks.tick().await;
        let turns = resolver.last_turn().is_some_and(|turn| turn.elapsed() < TURN);
        if turns && let Err(error) = heartbeat.beat(monotonic_nanoseconds()) {
            warn!("the hooks cannot be told that the resolver lives, so names are left to Docker: {error:#}");
            sleep(Duration::from_secs(5)).await;
        }
    }
}

/// Serves metrics at the node's address in the Swarm, wherever that is, or at another that was named.
async fn serve_http(
    place: HttpPlace,
    mut local: watch::Receiver<Option<Arc<LocalView>>>,
    collector: Arc<Collector>,
) {
    let (sender, address) = watch::channel(None);
    tokio::spawn(status::http::serve(address, collector));
    loop {
        let here = match place {
            HttpPlace::Off => return,
            HttpPlace::At(address) => Some(address),
            HttpPlace::Swarm { port } => {
                let local = local.borrow_and_update();
                let address = local.as_ref().and_then(|local| local.node.address);
                address.map(|address| SocketAddr::from((address, port)))
            }
        };
        sender.send_if_modified(|known| {
            // A node that leaves its Swarm for a moment has its address still.
            let differs = here.is_some() && *known != here;
            if differs {
                *known = here;
            }
            differs
        });
        if local.changed().await.is_err() {
            return;
        }
    }
}

async fn show_status(socket: PathBuf, collector: Arc<Collector>) {
    loop {
        let Err(error) = status::server::serve(&socket, collector.clone()).await;
        warn!("`mesh-agent status` cannot be served, trying again: {error:#}");
        sleep(Duration::from_secs(5)).await;
    }
}

//! The embedded broker: MQTT 5 and 3.1.1 on loopback, keeping its messages in memory.

use std::net::SocketAddr;

use anyhow::Context as _;
use mqtt5::broker::config::{StorageBackend, StorageConfig};
use mqtt5::broker::{BrokerConfig, BrokerShutdownHandle, MqttBroker};
use tokio::task::JoinSet;

use super::LOOPBACK;

/// A running broker.
pub(super) struct Embedded {
    address: SocketAddr,
    shutdown: BrokerShutdownHandle,
    running: JoinSet<anyhow::Result<()>>,
}

impl Embedded {
    /// Starts it on a port of loopback, or on another one where that is not free.
    pub(super) async fn start(port: u16) -> anyhow::Result<Self> {
        let mut broker = match MqttBroker::with_config(config(port)).await {
            Ok(broker) => broker,
            Err(_taken) => MqttBroker::with_config(config(0)).await.context("cannot start the embedded broker")?,
        };
        let address = broker.local_addr().context("the embedded broker does not listen")?;
        let shutdown = broker.shutdown_handle();
        let mut ready = broker.ready_receiver();
        let mut running = JoinSet::new();
        running.spawn(async move { broker.run().await.context("the embedded broker failed") });
        ready.wait_for(|is_ready| *is_ready).await.context("the embedded broker does not come up")?;
        Ok(Self { address, shutdown, running })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops it.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        self.shutdown.shutdown();
        match self.running.join_next().await {
            Some(ended) => ended.context("the embedded broker panicked")?,
            None => Ok(()),
        }
    }
}

fn config(port: u16) -> BrokerConfig {
    let storage = StorageConfig::new().with_backend(StorageBackend::Memory).with_max_queued_messages_per_client(1_000_000);
    let mut config = BrokerConfig::new()
        .with_bind_addresses(vec![SocketAddr::from((LOOPBACK, port))])
        .with_storage(storage)
        .with_max_packet_size(4_194_304)
        .with_max_clients(1_000);
    config.auth_config.allow_anonymous = true;
    config
}

//! A broker that forgets sessions and breaks connections as a test wants it to; packets go through `rumqttc`'s codec.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::Error;
use rumqttc::v5::mqttbytes::v5::{ConnAck, ConnectReturnCode, Packet, PubAck, Publish};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::publisher::Broker;

#[derive(Debug)]
pub(crate) struct FakeBroker {
    port: u16,
    /// What came, with the number of its connection.
    received: Arc<Mutex<Vec<(usize, Publish)>>>,
    _task: JoinSet<()>,
}

impl FakeBroker {
    /// Each connection is cut after its number of acknowledgements, and some messages more; those after the last are not.
    pub(crate) async fn start(acknowledgements: &[usize]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let received = Arc::new(Mutex::new(Vec::new()));
        let (log, limits) = (Arc::clone(&received), acknowledgements.to_vec());
        let mut task = JoinSet::new();
        task.spawn(async move {
            for number in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                serve(stream, number, limits.get(number).copied(), &log).await;
            }
        });
        Self { port, received, _task: task }
    }

    pub(crate) fn broker(&self) -> Broker {
        Broker { host: "127.0.0.1".into(), port: self.port, credentials: None, connect_timeout: Duration::from_secs(5) }
    }

    pub(crate) async fn reached_connection(&self, number: usize) {
        while self.received().last().is_none_or(|(last, _)| *last < number) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// On each connection the messages are consecutive; again only what was sent before; at the end all have come. The answer
    /// is their payloads.
    pub(crate) fn check_nothing_is_missing_or_reordered(&self, count: usize) -> Vec<Vec<u8>> {
        let mut payloads: Vec<Vec<u8>> = Vec::new();
        let mut position = None;
        let mut connection = 0;
        for (number, publish) in self.received() {
            if number != connection {
                (connection, position) = (number, None);
            }
            let known = payloads.iter().position(|payload| **payload == publish.payload);
            let place = known.unwrap_or(payloads.len());
            assert!(position.is_none_or(|last| place == last + 1), "message {place} follows {position:?}");
            // What broke off on the way was sent, but never came: its repetition looks new here.
            assert!(known.is_none() || publish.dup, "message {place} comes again without its mark");
            if known.is_none() {
                payloads.push(publish.payload.to_vec());
            }
            position = Some(place);
        }
        assert_eq!(payloads.len(), count);
        payloads
    }

    fn received(&self) -> Vec<(usize, Publish)> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve(mut stream: TcpStream, number: usize, limit: Option<usize>, log: &Mutex<Vec<(usize, Publish)>>) {
    let (mut incoming, mut count) = (BytesMut::new(), 0);
    while stream.read_buf(&mut incoming).await.is_ok_and(|count| count != 0) {
        let mut outgoing = BytesMut::new();
        loop {
            match Packet::read(&mut incoming, None) {
                Ok(Packet::Connect(..)) => {
                    let ack = ConnAck { session_present: false, code: ConnectReturnCode::Success, properties: None };
                    ack.write(&mut outgoing).unwrap();
                }
                Ok(Packet::Publish(publish)) => {
                    count += 1;
                    if limit.is_none_or(|limit| count <= limit) {
                        PubAck::new(publish.pkid, None).write(&mut outgoing).unwrap();
                    }
                    log.lock().unwrap_or_else(PoisonError::into_inner).push((number, publish));
                }
                Ok(_) => return,
                Err(Error::InsufficientBytes(_)) => break,
                Err(error) => panic!("{error}"),
            }
        }
        stream.write_all(&outgoing).await.unwrap();
        if limit.is_some_and(|limit| limit + 3 <= count) {
            // Closing with something unread would be a reset, which takes the acknowledgements with it.
            stream.shutdown().await.unwrap();
            while stream.read_buf(&mut incoming).await.is_ok_and(|count| count != 0) {}
            return;
        }
    }
}

//! A way between program and broker that can swallow what the program says.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Ends with its connections.
pub(crate) struct Proxy {
    address: SocketAddr,
    swallows: Arc<AtomicBool>,
}

impl Proxy {
    /// A way to the broker at `to`, for one connection.
    pub(crate) fn to(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let swallows = Arc::new(AtomicBool::new(false));
        let silent = Arc::clone(&swallows);
        std::thread::spawn(move || {
            let Ok((program, _from)) = listener.accept() else { return };
            let broker = TcpStream::connect(to).unwrap();
            let (back, forth) = (broker.try_clone().unwrap(), program.try_clone().unwrap());
            std::thread::spawn(move || pass(back, forth, &AtomicBool::new(false)));
            pass(program, broker, &silent);
        });
        Self { address, swallows }
    }

    /// As a source's configuration has it.
    pub(crate) fn url(&self) -> String {
        format!("mqtt://{}", self.address)
    }

    /// From now on, what the program says does not arrive.
    pub(crate) fn swallow(&self) {
        self.swallows.store(true, Ordering::SeqCst);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, swallows: &AtomicBool) {
    let mut bytes = [0; 16_384];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if !swallows.load(Ordering::SeqCst) && to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    // Whoever is gone is gone for the other too.
    drop((from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both)));
}

//! The few MQTT 5 packets that a publisher needs, written and read by hand: a codec that allocates for each message costs more
//! than everything else here.

use anyhow::{Context, bail, ensure};

use crate::publisher::Credentials;

/// A packet from the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packet {
    ConnAck {
        session_present: bool,
        /// 0 is success.
        reason: u8,
        receive_maximum: Option<u16>,
        keep_alive_s: Option<u16>,
    },
    PubAck {
        packet_id: u16,
        /// From 0x80 on it says no.
        reason: u8,
    },
    PingResp,
    Disconnect {
        reason: u8,
    },
}

pub(super) const PING: [u8; 2] = [0xc0, 0];
/// With a session expiry of 0, so that the broker forgets the session.
pub(super) const DISCONNECT: [u8; 9] = [0xe0, 7, 0, 5, 0x11, 0, 0, 0, 0];
/// Set in the first byte of a PUBLISH that is sent again.
pub(super) const DUP: u8 = 0b1000;

/// A CONNECT that resumes its session, which outlives the connection by an hour.
pub(super) fn connect(client_id: &str, keep_alive_s: u16, credentials: Option<&Credentials>) -> Vec<u8> {
    let flags = if credentials.is_some() { 0b1100_0000 } else { 0 };
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 5, flags];
    body.extend_from_slice(&keep_alive_s.to_be_bytes());
    body.extend_from_slice(&[5, 0x11]);
    body.extend_from_slice(&3_600_u32.to_be_bytes());
    put_text(&mut body, client_id.as_bytes());
    if let Some(Credentials { user, password }) = credentials {
        put_text(&mut body, user.as_bytes());
        put_text(&mut body, password.as_bytes());
    }
    let mut packet = vec![0x10];
    put_length(&mut packet, body.len());
    packet.append(&mut body);
    packet
}

/// A PUBLISH to be delivered at least once, without properties.
pub(super) fn publish(out: &mut Vec<u8>, topic: &[u8], packet_id: u16, payload: &[u8]) {
    out.push(0x32);
    put_length(out, 2 + topic.len() + 2 + 1 + payload.len());
    put_text(out, topic);
    out.extend_from_slice(&packet_id.to_be_bytes());
    out.push(0);
    out.extend_from_slice(payload);
}

/// The first packet of what was read, and the bytes after it; nothing while it is incomplete.
pub(super) fn read(bytes: &[u8]) -> anyhow::Result<Option<(Packet, &[u8])>> {
    // Nearly all packets are of this form.
    if let [0x40, 2, high, low, rest @ ..] = bytes {
        return Ok(Some((Packet::PubAck { packet_id: u16::from_be_bytes([*high, *low]), reason: 0 }, rest)));
    }
    let Some((first, rest)) = bytes.split_first() else { return Ok(None) };
    let Some((length, rest)) = read_length(rest)? else { return Ok(None) };
    let Some((body, rest)) = rest.split_at_checked(length) else { return Ok(None) };
    let packet = match (first >> 4, body) {
        (2, [flags, reason, properties @ ..]) => {
            let (receive_maximum, keep_alive_s) = read_connack_properties(properties).context("unreadable CONNACK")?;
            Packet::ConnAck { session_present: flags & 1 == 1, reason: *reason, receive_maximum, keep_alive_s }
        }
        (4, [high, low, reason @ ..]) => {
            Packet::PubAck { packet_id: u16::from_be_bytes([*high, *low]), reason: reason.first().copied().unwrap_or(0) }
        }
        (13, _) => Packet::PingResp,
        (14, reason) => Packet::Disconnect { reason: reason.first().copied().unwrap_or(0) },
        (kind, _) => bail!("unexpected packet of type {kind}"),
    };
    Ok(Some((packet, rest)))
}

/// Receive Maximum and Server Keep Alive.
fn read_connack_properties(bytes: &[u8]) -> anyhow::Result<(Option<u16>, Option<u16>)> {
    let (length, mut rest) = read_length(bytes)?.context("no properties")?;
    ensure!(length == rest.len(), "properties do not fill the packet");
    let (mut receive_maximum, mut keep_alive_s) = (None, None);
    while let Some((id, value)) = rest.split_first() {
        // Lengths by MQTT 5, table 2-4; text is preceded by its own.
        let text = |value: &[u8]| match value {
            [high, low, ..] => 2 + usize::from(u16::from_be_bytes([*high, *low])),
            _ => usize::MAX,
        };
        let length = match id {
            0x11 | 0x27 => 4,
            0x21 | 0x22 | 0x13 => 2,
            0x24 | 0x25 | 0x28 | 0x29 | 0x2a => 1,
            0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => text(value),
            0x26 => {
                let key = text(value);
                key.saturating_add(text(value.get(key..).unwrap_or_default()))
            }
            _ => bail!("unknown property {id:#x}"),
        };
        let (value, after) = value.split_at_checked(length).context("a property ends too early")?;
        match (id, value) {
            (0x21, [high, low]) => receive_maximum = Some(u16::from_be_bytes([*high, *low])),
            (0x13, [high, low]) => keep_alive_s = Some(u16::from_be_bytes([*high, *low])),
            _ => {}
        }
        rest = after;
    }
    Ok((receive_maximum, keep_alive_s))
}

/// A Variable Byte Integer.
fn read_length(bytes: &[u8]) -> anyhow::Result<Option<(usize, &[u8])>> {
    let mut length = 0;
    for (number, byte) in bytes.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * number);
        if byte & 0x80 == 0 {
            return Ok(Some((length, bytes.get(number + 1..).unwrap_or_default())));
        }
    }
    ensure!(bytes.len() < 4, "a length has more than four bytes");
    Ok(None)
}

fn put_length(out: &mut Vec<u8>, mut length: usize) {
    loop {
        let byte = u8::try_from(length & 0x7f).unwrap_or(0);
        length >>= 7;
        out.push(if length == 0 { byte } else { byte | 0x80 });
        if length == 0 {
            return;
        }
    }
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use rumqttc::v5::mqttbytes::v5::{ConnAck, ConnAckProperties, ConnectReturnCode, Packet as Foreign, PubAck, PubAckReason};

    use super::{DISCONNECT, Packet, connect, read};
    use crate::publisher::Credentials;

    #[test]
    fn another_codec_reads_what_is_written() {
        let credentials = Credentials { user: "u".into(), password: "secret".into() };
        let mut stream = BytesMut::from(&connect("conca-load-1", 60, Some(&credentials))[..]);
        stream.extend_from_slice(&DISCONNECT);
        let Foreign::Connect(connect, None, Some(login)) = Foreign::read(&mut stream, None).unwrap() else { panic!("not a CONNECT") };
        assert_eq!((connect.client_id.as_str(), connect.keep_alive, connect.clean_start), ("conca-load-1", 60, false));
        assert_eq!(connect.properties.unwrap().session_expiry_interval, Some(3_600));
        assert_eq!((login.username.as_str(), login.password.as_str()), ("u", "secret"));
        let Foreign::Disconnect(disconnect) = Foreign::read(&mut stream, None).unwrap() else { panic!("not a DISCONNECT") };
        assert_eq!(disconnect.properties.unwrap().session_expiry_interval, Some(0));
        assert!(stream.is_empty());
    }

    #[test]
    fn what_another_codec_writes_is_read() {
        let mut stream = BytesMut::new();
        let properties = ConnAckProperties {
            session_expiry_interval: Some(7),
            receive_max: Some(20),
            max_qos: Some(1),
            retain_available: None,
            max_packet_size: Some(9_999),
            assigned_client_identifier: Some("another".into()),
            topic_alias_max: Some(10),
            reason_string: Some("because".into()),
            user_properties: vec![("key".into(), "value".into())],
            wildcard_subscription_available: None,
            subscription_identifiers_available: None,
            shared_subscription_available: None,
            server_keep_alive: Some(15),
            response_information: None,
            server_reference: None,
            authentication_method: None,
            authentication_data: None,
        };
        ConnAck { session_present: true, code: ConnectReturnCode::Success, properties: Some(properties) }.write(&mut stream).unwrap();
        PubAck::new(300, None).write(&mut stream).unwrap();
        let refused = PubAck { reason: PubAckReason::QuotaExceeded, ..PubAck::new(301, None) };
        refused.write(&mut stream).unwrap();
        let expected = [
            Packet::ConnAck { session_present: true, reason: 0, receive_maximum: Some(20), keep_alive_s: Some(15) },
            Packet::PubAck { packet_id: 300, reason: 0 },
            Packet::PubAck { packet_id: 301, reason: 0x97 },
        ];
        let mut rest = &stream[..];
        for expected in expected {
            let (packet, after) = read(rest).unwrap().unwrap();
            assert_eq!(packet, expected);
            let whole = rest.len() - after.len();
            assert!((0..whole).all(|cut| read(&rest[..cut]).unwrap().is_none()), "{expected:?} is complete too early");
            rest = after;
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn nonsense_is_an_error() {
        assert!(read(&[0x40, 0xff, 0xff, 0xff, 0xff, 1]).is_err());
        assert!(read(&[0x90, 1, 0]).is_err());
        assert!(read(&[0x20, 5, 0, 0, 2, 0x99, 0]).is_err());
    }
}

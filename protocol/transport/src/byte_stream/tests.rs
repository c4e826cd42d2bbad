//! Reading and writing over TLS, however the bytes arrive; and the certificates that are accepted.

use super::*;
use crate::testing::{AUTHORITY, accept, as_client, dial, ends, identity, pair, read_until, socket_pair, wait};
use crate::tls::{TlsAcceptor, TlsDialer};
use rustls::{CertificateError, ClientConnection, Error};
use stablechat_authority::Authority;
use stablechat_protocol::name::{ClusterName, ReplicaName};
use std::io::Read as _;
use std::time::{Duration, SystemTime};

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_full_socket_leaves_the_rest_in_the_buffer() {
    let (mut stream, mut other) = pair();
    let message = vec![7; 1024 * 1024];
    (0..32).for_each(|_| stream.queue(&message));
    stream.flush().expect("the other side is there");
    assert!(stream.unwritten() > 0, "no socket buffer holds 32 MiB");
    stream.finish();

    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        other.read_to_end(&mut all).map(|_| all.len())
    });
    while !reader.is_finished() {
        stream.flush().expect("the other side reads");
        std::thread::yield_now();
    }
    assert_eq!(reader.join().expect("no panic").expect("the end"), 32 * message.len());
    assert_eq!(stream.unwritten(), 0);
}

#[test]
fn the_end_is_seen_after_all_bytes() {
    let (mut stream, mut other) = pair();
    let mut got = Vec::new();
    assert_eq!(stream.read(&mut [0; 16], |_| {}).end, ReadEnd::Drained);

    other.write_all(b"some bytes, and then the end").expect("a small write");
    other.conn.send_close_notify();
    other.flush().expect("a small write");
    let end = read_until(&mut stream, |piece| got.extend_from_slice(piece), ReadEnd::is_over);
    assert_eq!((end, &got[..]), (ReadEnd::Closed, &b"some bytes, and then the end"[..]));
}

#[test]
fn a_connection_that_is_cut_off_does_not_look_like_its_end() {
    let (mut stream, mut other) = pair();
    other.write_all(b"half of wh").expect("a small write");
    drop(other);
    let mut got = Vec::new();
    let end = read_until(&mut stream, |piece| got.extend_from_slice(piece), ReadEnd::is_over);
    assert_eq!((end, &got[..]), (ReadEnd::Failed(Fault::CutOff), &b"half of wh"[..]));
}

/// The real-time test relies on this: once a connection is drained, all messages that had arrived are read.
#[test]
fn a_connection_is_drained_when_no_whole_record_is_left() {
    let (mut stream, mut other) = pair();
    // Many records, of which all but the end of the last have arrived.
    for number in 0..100_u8 {
        other.conn.writer().write_all(&[number; 300]).expect("room");
    }
    let mut raw = Vec::new();
    while other.conn.wants_write() {
        other.conn.write_tls(&mut raw).expect("a vector takes everything");
    }
    let (last, rest) = raw.split_last().expect("not empty");
    other.sock.write_all(rest).expect("a small write");

    let (mut bytes, mut come) = (0, 0);
    wait(|| {
        let read = stream.read(&mut [0; 4096], |_| {});
        (bytes, come) = (bytes + read.bytes, come + read.raw);
        assert!(read.end != ReadEnd::Drained || come < rest.len() || bytes == 99 * 300, "{bytes} bytes of {come}");
        read.end == ReadEnd::Drained && come == rest.len()
    });
    assert_eq!(bytes, 99 * 300, "the last record is not whole");
    other.sock.write_all(&[*last]).expect("a small write");
    wait(|| stream.read(&mut [0; 4096], |_| {}).bytes == 300);
}

#[test]
fn a_record_of_the_largest_size_may_come_byte_by_byte() {
    let (mut stream, mut other) = pair();
    other.conn.writer().write_all(&[3; ENCRYPTED_MAX]).expect("room");
    let (mut raw, mut got) = (Vec::new(), 0);
    other.conn.write_tls(&mut raw).expect("a vector takes everything");
    for byte in raw {
        other.sock.write_all(&[byte]).expect("room for a byte");
        wait(|| {
            let read = stream.read(&mut [0; 64], |piece| got += piece.len());
            assert!(!read.end.is_over(), "{:?}", read.end);
            read.raw == 1
        });
    }
    assert_eq!(got, ENCRYPTED_MAX);
}

#[test]
fn one_call_reads_a_share_only() {
    let (mut stream, mut other) = pair();
    let writer = std::thread::spawn(move || other.write_all(&vec![1; 4 * READ_MAX]).map(|()| other));
    let mut scratch = vec![0; 64 * 1024];
    let mut total = 0;
    while total < 4 * READ_MAX {
        let Read { bytes, raw, end } = stream.read(&mut scratch, |_| {});
        assert!(raw <= READ_MAX && !end.is_over(), "{raw} bytes, {end:?}");
        assert!(end != ReadEnd::More || raw == READ_MAX);
        total += bytes;
    }
    let mut other = writer.join().expect("no panic").expect("all is written");

    stream.set_read_max(10);
    other.write_all(&[1; 25]).expect("a small write");
    let mut come = 0;
    wait(|| {
        let Read { bytes, raw, .. } = stream.read(&mut scratch, |_| {});
        assert!(raw <= 10, "{raw}");
        come += bytes;
        come == 25
    });
}

#[test]
fn nothing_is_queued_after_the_finish() {
    let (mut stream, mut other) = pair();
    stream.queue(b"last");
    stream.finish();
    stream.queue(b"too late");
    stream.flush().expect("room for four bytes");
    let mut all = String::new();
    other.read_to_string(&mut all).expect("the end");
    assert_eq!(all, "last");
}

#[test]
fn both_ends_and_no_others_have_the_same_channel_binding() {
    let ours = |far: &ClientConnection| {
        far.export_keying_material([0; 32], CHANNEL_BINDING, Some(&[])).map(ChannelBinding).expect("agreed")
    };
    let ((one, far), (other, _)) = (pair(), pair());
    assert_eq!(one.channel_binding(), Some(ours(&far.conn)));
    assert_ne!(one.channel_binding(), other.channel_binding());
    let (socket, _) = socket_pair();
    assert_eq!(ByteStream::new(socket, accept()).channel_binding(), None);
}

#[test]
fn a_replica_is_taken_for_the_one_that_its_certificate_names() {
    let dialer = TlsDialer::for_replica(AUTHORITY.certificate(), &identity("b")).expect("a good certificate");
    let (near, _far) = ends(accept(), as_client(dialer.dial("a").expect("a name")));
    assert!(near.is_certified_as("b") && !near.is_certified_as("c") && !near.is_certified_as("no name"));
    let (near, _far) = pair();
    assert!(!near.is_certified_as("b"), "a client is no replica");
}

#[test]
fn keys_are_agreed_upon_so_that_a_quantum_computer_is_of_no_help() {
    let (_near, far) = pair();
    let group = far.conn.negotiated_key_exchange_group().expect("agreed").name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
    assert_eq!(far.conn.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
}

/// What a client makes of a replica with this identity, that it dials as `a`.
fn fault_of(identity: &crate::Identity, authorities: &str) -> Option<Error> {
    let acceptor = TlsAcceptor::new(AUTHORITY.certificate(), identity).expect("a good certificate");
    let client = TlsDialer::for_client(authorities).expect("an authority").dial("a").expect("a name");
    let (near, far) = ends(acceptor.accept().expect("random numbers"), as_client(client));
    assert!(far.is_ok() || near.is_handshaking(), "the replica knows that it failed");
    far.err().map(|error| error.downcast::<Error>().expect("a TLS error"))
}

#[test]
fn certificates_of_others_or_of_another_time_are_refused() {
    let name = ReplicaName::parse("a").expect("a name");
    let now = SystemTime::now();
    let identity_of = |text: &str| crate::Identity::from_pem(text).expect("a certificate");
    let issued = |from, to| identity_of(&AUTHORITY.issue_valid(&name, from..to).expect("random numbers"));
    let fault = |identity: &crate::Identity| match fault_of(identity, AUTHORITY.certificate()) {
        Some(Error::InvalidCertificate(fault)) => Some(fault),
        None => None,
        Some(error) => panic!("{error}"),
    };
    assert_eq!(fault(&issued(now - HOUR, now + HOUR)), None);
    let expired = fault(&issued(now - 2 * HOUR, now - HOUR));
    assert!(matches!(expired, Some(CertificateError::ExpiredContext { .. })), "{expired:?}");
    let early = fault(&issued(now + HOUR, now + 2 * HOUR));
    assert!(matches!(early, Some(CertificateError::NotValidYetContext { .. })), "{early:?}");
    let other = fault(&identity("b"));
    assert!(matches!(other, Some(CertificateError::NotValidForNameContext { .. })), "{other:?}");

    // Another authority of the same name; and both, while one takes the place of the other.
    let another = Authority::create(&ClusterName::parse("demo").expect("a name")).expect("random numbers");
    let foreign = identity_of(&another.issue(&name).expect("random numbers"));
    assert!(fault(&foreign).is_some());
    let both = format!("{}{}", AUTHORITY.certificate(), another.certificate());
    assert_eq!(fault_of(&foreign, &both), None);
    assert_eq!(fault_of(&identity("a"), &both), None);
}

#[test]
fn bytes_that_are_no_handshake_end_the_connection() {
    let hello = |tls: &mut ClientConnection| {
        let mut bytes = Vec::new();
        tls.write_tls(&mut bytes).expect("a vector takes everything");
        bytes
    };
    let whole = hello(&mut dial());
    // Cut at any byte, it is waited for, and then cut off.
    for length in 0..whole.len() {
        let (socket, mut far) = socket_pair();
        let mut near = ByteStream::new(socket, accept());
        far.write_all(&whole[..length]).expect("a small write");
        drop(far);
        let end = read_until(&mut near, |_| panic!("nothing is said yet"), ReadEnd::is_over);
        assert_eq!(end, ReadEnd::Failed(Fault::CutOff), "{length} bytes");
    }
    let fault = |bytes: &[u8]| {
        let (socket, mut far) = socket_pair();
        let mut near = ByteStream::new(socket, accept());
        far.write_all(bytes).expect("a small write");
        match read_until(&mut near, |_| panic!("nothing is said yet"), ReadEnd::is_over) {
            ReadEnd::Failed(fault) => fault.to_string(),
            end => panic!("{end:?}"),
        }
    };
    assert_eq!(fault(b"GET / HTTP/1.1\r\n\r\n"), "it does not speak TLS");
    assert_eq!(fault(&[0, 0, 0, 2, 0x81, 0x02]), "it does not speak TLS");
    assert_eq!(fault(&tls12_hello(&whole)), "it does not speak TLS 1.3");
}

/// A hello that offers TLS 1.2 and nothing newer: that of TLS 1.3 with another number in `supported_versions`.
fn tls12_hello(hello: &[u8]) -> Vec<u8> {
    let mut bytes = hello.to_vec();
    // The extension 43, with a list of one version: 0x0304.
    let at = bytes.windows(7).position(|window| window == [0, 43, 0, 3, 2, 3, 4]).expect("it offers TLS 1.3 alone");
    bytes[at + 6] = 3;
    bytes
}

#[test]
fn a_changed_byte_is_noticed() {
    let (mut stream, mut other) = pair();
    other.conn.writer().write_all(b"pay bob").expect("room");
    let mut raw = Vec::new();
    other.conn.write_tls(&mut raw).expect("a vector takes everything");
    let last = raw.len() - 1;
    raw[last] ^= 1;
    other.sock.write_all(&raw).expect("a small write");
    let end = read_until(&mut stream, |_| panic!("it is not what was sent"), ReadEnd::is_over);
    assert_eq!(end, ReadEnd::Failed(Fault::Tls(Error::DecryptError)));
    // The other side is told.
    let mut rest = [0; 16];
    let told = other.read(&mut rest).expect_err("the connection is of no use");
    assert!(told.to_string().contains("BadRecordMac"), "{told}");
}

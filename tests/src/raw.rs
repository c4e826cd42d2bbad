//! A client that sends exactly what a test wants, whether it is valid or not.
//!
//! It blocks, with limits. Here are connections, frames, greeting and login; `steps` has the rest of the usual steps, for the parts of
//! tests that keep to the protocol.

mod steps;

use crate::session::{Person, Session, send, stamp};
use crate::wait::{SOON, wait_until};
use rustix::net::{AddressFamily, SocketType};
use rustls::{ClientConnection, Connection, StreamOwned};
use stablechat_protocol::answer::{Answer, AnswerMetadata, Refusal};
use stablechat_protocol::close::CloseReason;
use stablechat_protocol::command::Command;
use stablechat_protocol::conversation::{Conversation, Message};
use stablechat_protocol::frame::{Decoded, FrameBuffer, encode};
use stablechat_protocol::login::{Challenge, ChannelBinding};
use stablechat_protocol::message::{MAGIC, Role, ToClient, ToReplica};
use stablechat_protocol::name::{AccountName, ClusterName, ReplicaName};
use stablechat_protocol::room::RoomNews;
use stablechat_protocol::uid::Uid;
use stablechat_transport::TlsDialer;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

/// A blocking socket under TLS.
pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// A connection to a replica.
pub struct RawClient {
    stream: TlsStream,
    inbox: FrameBuffer,
    /// The replica and its challenge, from the answer to our hello.
    welcome: Option<(ReplicaName, Challenge)>,
    /// Deliveries that came before the message that the test waited for.
    deliveries: VecDeque<Message>,
    /// What has happened in rooms.
    news: VecDeque<RoomNews>,
    /// The account of the last login, whose own messages to others are not counted as deliveries.
    account: Option<AccountName>,
    /// The session of [`RawClient::call`].
    session: Session,
    /// The id of the last query.
    query: u64,
}

/// The result of waiting for a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    Message(ToClient),
    /// The connection has ended or broken.
    End,
    /// No message came within the limit.
    Nothing,
}

/// An answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    pub answer: Answer,
    /// The uid of the attempt that was answered.
    pub uid: Uid,
    pub metadata: AnswerMetadata,
}

impl RawClient {
    /// Opens a connection to the replica of this name, and says nothing on it.
    ///
    /// # Errors
    /// The replica does not listen, or is not the one that it should be.
    pub fn connect(address: SocketAddr, replica: &str, tls: &TlsDialer) -> io::Result<RawClient> {
        RawClient::over(TcpStream::connect_timeout(&address, SOON)?, replica, tls)
    }

    /// The same from this address of the machine.
    ///
    /// # Errors
    /// As with [`RawClient::connect`], or the machine has no such address.
    pub fn connect_from(
        source: Ipv4Addr,
        address: SocketAddr,
        replica: &str,
        tls: &TlsDialer,
    ) -> io::Result<RawClient> {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
        rustix::net::bind(&socket, &SocketAddrV4::new(source, 0))?;
        rustix::net::connect(&socket, &address)?;
        RawClient::over(TcpStream::from(socket), replica, tls)
    }

    /// Shakes hands on a connection.
    fn over(stream: TcpStream, replica: &str, tls: &TlsDialer) -> io::Result<RawClient> {
        stream.set_nodelay(true)?;
        // A test never hangs: a replica that reads nothing for this long is broken.
        stream.set_write_timeout(Some(SOON))?;
        stream.set_read_timeout(Some(SOON))?;
        let Connection::Client(tls) = tls.dial(replica).map_err(io::Error::other)? else {
            unreachable!("the dialing side is the client")
        };
        let mut stream = StreamOwned::new(tls, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        let (inbox, session) = (FrameBuffer::default(), Session::default());
        Ok(RawClient {
            stream,
            inbox,
            welcome: None,
            deliveries: VecDeque::new(),
            news: VecDeque::new(),
            account: None,
            session,
            query: 0,
        })
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream.sock
    }

    /// The bare connection, made non-blocking. No part of a frame must be left in the client.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn into_stream(self) -> io::Result<TlsStream> {
        assert!(!self.inbox.is_mid_frame(), "part of a frame is left");
        self.stream.sock.set_nonblocking(true)?;
        Ok(self.stream)
    }

    /// What identifies the connection to both of its ends.
    fn channel(&self) -> ChannelBinding {
        let binding = self.stream.conn.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(&[]));
        ChannelBinding(binding.expect("the handshake is done"))
    }

    /// Sends bytes, valid or not.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// Sends a message.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn send(&mut self, message: &ToReplica) -> io::Result<()> {
        self.send_bytes(&frame(message))
    }

    /// Sends messages in one go.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn send_all<'a>(&mut self, messages: impl IntoIterator<Item = &'a ToReplica>) -> io::Result<()> {
        let frames: Vec<Vec<u8>> = messages.into_iter().map(frame).collect();
        self.send_bytes(&frames.concat())
    }

    /// Closes our direction of the connection.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn finish(&mut self) -> io::Result<()> {
        self.stream.conn.send_close_notify();
        self.stream.flush()?;
        self.stream.sock.shutdown(Shutdown::Write)
    }

    /// Waits for the next message, up to a limit.
    pub fn receive_within(&mut self, limit: Duration) -> Received {
        let deadline = Instant::now() + limit;
        loop {
            if let Decoded::Frame(message) = self.inbox.decode().expect("replicas send good frames") {
                if self.is_own(&message) {
                    continue;
                }
                return Received::Message(message);
            }
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.stream.sock.set_read_timeout(Some(left)).expect("a limit that is not zero");
            match self.read_some() {
                Ok(0) => return Received::End,
                Ok(_) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    if Instant::now() >= deadline {
                        return Received::Nothing;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Received::End,
            }
        }
    }

    /// Whether it is the delivery of a message that the account itself has sent.
    fn is_own(&self, message: &ToClient) -> bool {
        match (message, &self.account) {
            (ToClient::Delivery { message: Message { from, to, .. } }, Some(account)) => {
                from == account && *to != Conversation::with(account)
            }
            _ => false,
        }
    }

    /// Waits for a message, up to a limit. Returns it with all that have arrived behind it, and whether the connection is open.
    pub fn receive_some(&mut self, limit: Duration) -> (Vec<ToClient>, bool) {
        let mut messages = Vec::new();
        match self.receive_within(limit) {
            Received::Message(message) => messages.push(message),
            Received::End => return (messages, false),
            Received::Nothing => return (messages, true),
        }
        while let Decoded::Frame(message) = self.inbox.decode().expect("replicas send good frames") {
            messages.push(message);
        }
        (messages, true)
    }

    /// Reads once.
    fn read_some(&mut self) -> io::Result<usize> {
        let mut bytes = [0; 64 * 1024];
        let length = self.stream.read(&mut bytes)?;
        self.inbox.push(&bytes[..length]);
        Ok(length)
    }

    /// The next message.
    ///
    /// # Panics
    /// None comes within [`SOON`], or the connection ends.
    pub fn receive(&mut self) -> ToClient {
        match self.receive_within(SOON) {
            Received::Message(message) => message,
            other => panic!("waited for a message, but got {other:?}"),
        }
    }

    /// Waits for the end of the connection, and returns the error that it ends with.
    ///
    /// # Panics
    /// It ends as it should, or not within [`SOON`].
    pub fn ended_by(&mut self) -> String {
        self.stream.sock.set_read_timeout(Some(SOON)).expect("a limit that is not zero");
        loop {
            match self.read_some() {
                Ok(0) => panic!("the connection has ended without an error"),
                Ok(_) => {}
                Err(error) => return error.to_string(),
            }
        }
    }

    /// The reason with which the replica ends the connection. The end follows it.
    ///
    /// # Panics
    /// The replica sends another message, or does not end the connection.
    pub fn closing(&mut self) -> CloseReason {
        match self.receive() {
            ToClient::Closing { reason } => {
                assert_eq!(self.receive_within(SOON), Received::End);
                reason
            }
            other => panic!("the connection is not ended, but {other:?} comes"),
        }
    }

    /// Waits until the replica has ended the connection, and returns the messages that came before.
    ///
    /// # Panics
    /// The connection is open and silent for [`SOON`].
    pub fn until_end(&mut self) -> Vec<ToClient> {
        let mut messages = Vec::new();
        loop {
            match self.receive_within(SOON) {
                Received::Message(message) => messages.push(message),
                Received::End => return messages,
                Received::Nothing => panic!("the connection does not end"),
            }
        }
    }

    /// Sends a client's hello.
    ///
    /// # Errors
    /// The replica refuses it: the reason.
    pub fn greet(&mut self, cluster: &str) -> Result<ReplicaName, CloseReason> {
        // A replica that is full may have ended the connection already; its reason can be read all the same.
        self.send(&hello(cluster)).ok();
        match self.receive() {
            ToClient::Welcome { replica, challenge, .. } => {
                self.welcome = Some((replica.clone(), challenge));
                Ok(replica)
            }
            ToClient::Closing { reason } => Err(reason),
            other => panic!("the answer to a hello is {other:?}"),
        }
    }

    /// The message that logs in on this connection.
    pub fn login_message(&self, person: &Person, receive: bool) -> ToReplica {
        person.login(self.welcome(), self.channel(), receive)
    }

    /// The same as it would be on another channel.
    pub fn login_message_for(&self, person: &Person, channel: ChannelBinding) -> ToReplica {
        person.login(self.welcome(), channel, false)
    }

    fn welcome(&self) -> (ReplicaName, Challenge) {
        self.welcome.clone().expect("greeted")
    }

    /// Logs in, and begins a session.
    pub fn login(&mut self, person: &Person, receive: bool) {
        let account = person.account.clone();
        assert_eq!(self.try_login(person, receive), ToClient::LoggedIn { account });
    }

    /// Tries to log in, begins a session, and returns the answer.
    pub fn try_login(&mut self, person: &Person, receive: bool) -> ToClient {
        self.session = Session::default();
        self.account = Some(person.account.clone());
        self.send(&self.login_message(person, receive)).expect("the connection stands");
        self.receive_other()
    }
}

/// A message's frame.
pub fn frame(message: &ToReplica) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(message, &mut bytes).expect("a message that fits a frame");
    bytes
}

/// A client's hello to a cluster.
pub fn hello(cluster: &str) -> ToReplica {
    let cluster = ClusterName::parse(cluster).expect("a name by the rules");
    ToReplica::Hello { magic: MAGIC.into(), version_min: 1, version_max: 1, role: Role::Client, cluster }
}

/// Sends a command to several replicas as clients do: the same request goes to all, and again to a replica that refuses it. All
/// have to answer `Done`.
pub fn call_everywhere(clients: &mut [RawClient], command: &Command) {
    let mut session = Session::default();
    let request = session.next(command.clone());
    clients.iter_mut().for_each(|client| client.send(&request).expect("the connection stands"));
    for client in clients {
        wait_until("a replica answers that a command is done", SOON, || match client.answer_or_refusal() {
            Ok(answered) => {
                assert_eq!(answered.answer, Answer::Done, "{command:?}");
                true
            }
            Err(Refusal::Late | Refusal::NotServing) => {
                let again = session.attempt(session.sequence, stamp(), command.clone());
                client.send(&again).expect("the connection stands");
                false
            }
            Err(refusal) => panic!("{command:?} is refused: {refusal}"),
        });
    }
}

/// Creates accounts, and checks that each is created.
pub fn create_accounts(client: &mut RawClient, people: &[&Person]) {
    for person in people {
        assert_eq!(client.call(person.create()), Answer::Done, "{}", person.account);
    }
}

/// Sends a message, and checks that it is done.
pub fn send_message(client: &mut RawClient, to: &str, text: impl Into<String>) {
    assert_eq!(client.call(send(to, text)), Answer::Done);
}

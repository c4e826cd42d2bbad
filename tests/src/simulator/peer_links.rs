//! A simulated poll loop's connections with peers, and its questions about their addresses.

use super::links::LinkId;

/// One entry for each replica; that of the replica itself stays empty.
#[derive(Clone, Debug)]
pub struct PeerLinks(Vec<PeerLink>);

/// The connection with a peer.
#[derive(Clone, Copy, Debug, Default)]
struct PeerLink {
    link: Option<LinkId>,
    /// The number of connections that the applier does not know of yet. Until it does, its messages were meant for earlier ones.
    unseen: usize,
    /// The last question whether anybody listens at the peer's address, until the peer is connected.
    asked: Option<u64>,
}

impl PeerLinks {
    /// No connections, in a cluster of so many replicas.
    pub fn new(replicas: usize) -> PeerLinks {
        PeerLinks(vec![PeerLink::default(); replicas])
    }

    /// Forgets everything, as the end of the process does.
    pub fn clear(&mut self) {
        self.0.fill(PeerLink::default());
    }

    /// A connection was made, in place of an earlier one. Returns the earlier one.
    pub fn begin(&mut self, peer: usize, link: LinkId) -> Option<LinkId> {
        let entry = &mut self.0[peer];
        entry.asked = None;
        entry.unseen += 1;
        entry.link.replace(link)
    }

    /// A connection is gone. Says whether it was the present one.
    pub fn end(&mut self, peer: usize, link: LinkId) -> bool {
        self.0[peer].link.take_if(|present| *present == link).is_some()
    }

    /// The present connection.
    pub fn get(&self, peer: usize) -> Option<LinkId> {
        self.0[peer].link
    }

    /// The connection for which the applier's messages to a peer are meant: none while it does not know of the present one.
    pub fn seen(&self, peer: usize) -> Option<LinkId> {
        self.0[peer].link.filter(|_| self.0[peer].unseen == 0)
    }

    /// The applier knows of one more connection.
    pub fn on_seen(&mut self, peer: usize) {
        self.0[peer].unseen = self.0[peer].unseen.saturating_sub(1);
    }

    /// Asks whether anybody listens at a peer's address, in place of an earlier question.
    pub fn ask(&mut self, peer: usize, number: u64) {
        self.0[peer].asked = Some(number);
    }

    /// Whether a question has no answer yet, and none is superfluous.
    pub fn asks(&self, peer: usize, number: u64) -> bool {
        self.0[peer].asked == Some(number)
    }

    /// A question is answered, or its answer is not wanted any more.
    pub fn drop_question(&mut self, peer: usize) {
        self.0[peer].asked = None;
    }
}
